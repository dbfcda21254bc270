"""What MLflow's page shows first."""

from experiments.tracking.views import of_all


def test_the_page_of_all_shows_the_best_distance_by_any_scorer():
    columns = str(of_all([], {"cells", "best/fid_tf", "best/fd_digits", "best/reconstruct/psnr"}, sweeps=True))
    assert all(f"metrics.`{key}`" in columns for key in ("best/fid_tf", "best/fd_digits", "best/reconstruct/psnr"))
