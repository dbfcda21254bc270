"""tokenbridge stats: a reference file from a folder of images, and what it refuses."""

import pytest

from tests.helpers.generators import arrays_of
from tests.helpers.scorers import pictures, write_dinov2, write_pictures


def test_a_folder_becomes_a_reference_file(call, tmp_path):
    write_dinov2(tmp_path)
    write_pictures(tmp_path / "images", pictures(5, size=21))
    words = ("stats", "images", "--out", "ref.npz", "--features", "dinov2", "--weights", ".", "--size", "16")
    assert "give --trust-weights where you trust who wrote it" in call(*words, cwd=tmp_path).stderr
    words += ("--trust-weights",)
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ref.npz: 5 images of 16 pixels by dinov2" in done.stdout
    found = arrays_of(tmp_path / "ref.npz")
    assert (found["mu"].shape, found["sigma"].shape) == ((1024,), (1024, 1024))
    assert '"image_size": 16' in str(found["about"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("images", "--out", "ref.txt"), "--out=ref.txt must end in .npz"),
        (("images", "--out", "ref.npz", "--features", "faces"), "must be one or several of"),
        (("nothing", "--out", "ref.npz"), "nothing cannot be read as a folder (No such file or directory)"),
    ],
)
def test_what_cannot_work_is_one_line(call, tmp_path, words, message):
    write_dinov2(tmp_path)
    rest = () if "--features" in words else ("--features", "dinov2")
    done = call("stats", *words, *rest, "--weights", ".", "--trust-weights", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "ref.npz").exists()


def test_images_of_differing_sizes_need_a_size(call, tmp_path):
    """Of none but their first, all would be cropped to it without a word."""
    write_dinov2(tmp_path)
    write_pictures(tmp_path / "images", pictures(3, size=21))
    write_pictures(tmp_path / "images" / "more", pictures(3, size=30))
    words = ("stats", "images", "--out", "ref.npz", "--features", "dinov2", "--weights", ".", "--trust-weights")
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "tokenbridge: images of images must be of one size, and more/000.png has 30 pixels where"
    )
    assert done.stderr.endswith("000.png has 21; give --size\n")
    assert not (tmp_path / "ref.npz").exists()
    assert call(*words, "--size", "21", cwd=tmp_path).returncode == 0
