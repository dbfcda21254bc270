"""What MLflow's page shows first."""

import pytest

from experiments.tracking.views import ABSENT, of_all, of_sweep, text_of, varying


def test_the_page_of_all_begins_with_what_sweeps_and_cells_have():
    view = of_all(["head.kind"], {"cells", "score/fid_tf", "best/fid_tf", "seeds", "reconstruct/psnr"}, sweeps=True)
    assert view["selectedColumns"] == [
        "tags.`score/fid_tf`", "metrics.`seeds`", "tags.`reconstruct/psnr`", "params.`head.kind`", "metrics.`cells`"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "metrics", "text"),
    [
        ("score/fd_digits", {"": 2.330211718155141}, "2.33"),
        ("score/fd_digits", {"": 2.330211718155141, "_half_width": 0.34567, "_se": 9.0}, "2.33 ± 0.35"),
        ("score/fd_digits", {"": 2.330211718155141, "_se": 0.1}, "2.33 ± 0.2 †"),
        ("score/fd_autoencoder", {"": 0.0081912, "_half_width": 0.000121}, "0.008191 ± 0.00012"),
        ("score/agreement", {"": 0.954321, "_half_width": 0.0211}, "95.43 ± 2.1 %"),
        ("reconstruct/psnr", {"": 35.81221, "_half_width": float("nan")}, "35.81 dB"),
        ("score/fid_tf", {"": 123456.7, "_half_width": 1234.5}, "123457 ± 1234"),
        ("quantizer/mse", {"": 0.0161037}, "0.0161"),
        ("score/fd_digits", {"": float("nan")}, "nan"),
        ("score/fd_digits", {"": float("inf")}, "inf"),
    ],
)
def test_a_number_of_a_list_has_four_digits_and_its_interval(key, metrics, text):
    assert text_of(key, {key + name: value for name, value in metrics.items()}) == text


def test_few_settings_stand_side_by_side_and_all_runs_have_them():
    runs = [{f"head.{i}": str(n) for i in range(8)} | {"quantizer.levels": "8"} for n in range(3)]
    del runs[0]["quantizer.levels"]
    differing = varying(runs)
    assert differing["quantizer.levels"] == [ABSENT, "8"]
    view = of_sweep("s", differing, {"score/fd_digits", "score/fd_digits_se"}, names=["x" * 30])
    *bars, settings = view["compareRunCharts"]
    assert settings["selectedParams"] == [f"head.{i}" for i in range(5)]
    assert [bar["metricKey"] for bar in bars] == ["score/fd_digits", "score/fd_digits_se"]
    assert view["columnWidths"]["attributes.`Run Name`"] >= 30 * 8
    assert "params.`quantizer.levels`" in view["selectedColumns"]
