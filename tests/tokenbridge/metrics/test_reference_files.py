"""Files of reference statistics that cannot be right are refused before anything runs, with the reason."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from tokenbridge.config import UserError
from tokenbridge.metrics import extraction
from tokenbridge.metrics.reference_files import images_of, read_statistics, write_statistics
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import override

SMALL = replace(SCORERS["inception"], width=5, spatial=3)
MU, SIGMA = np.arange(5.0), np.diag(np.arange(1.0, 6))


def with_value(array: np.ndarray, place, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": MU}, r"must hold mu and sigma, but sigma is missing"),
        ({"sigma": SIGMA}, r"must hold mu and sigma, but mu is missing"),
        ({"mean": MU, "cov": SIGMA}, r"but mu is missing"),
        ({"mu": MU[:4], "sigma": SIGMA[:4, :4]}, r"mu \(4,\) and sigma \(4, 4\), which must be \(5,\) and \(5, 5\)"),
        ({"mu": MU, "sigma": SIGMA[:4]}, r"sigma \(4, 5\)"),
        ({"mu": MU, "sigma": with_value(SIGMA, (0, 1), 0.5)}, r"sigma of .* must be symmetric"),
        ({"mu": MU, "sigma": with_value(SIGMA, (2, 2), np.nan)}, r"sigma of .* has 1 values that are not finite"),
        ({"mu": with_value(MU, 3, np.inf), "sigma": SIGMA}, r"mu of .* has 1 values that are not finite"),
        ({"mu": MU, "sigma": SIGMA, "mu_s": MU[:3]}, r"must hold mu_s and sigma_s, but sigma_s is missing"),
        ({"mu": MU, "sigma": SIGMA, "mu_s": MU, "sigma_s": SIGMA}, r"which must be \(3,\) and \(3, 3\)"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array('{"features": "clean"}')}, r"statistics of clean features"),
    ],
)
def test_unusable_statistics_are_refused(tmp_path, arrays, message):
    np.savez(path := tmp_path / "stats.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        read_statistics(path, SMALL)
    assert "\n" not in str(error.value)


def test_cut_files_are_refused(tmp_path):
    np.savez(whole := tmp_path / "whole.npz", mu=MU, sigma=SIGMA)
    for length in (10, len(whole.read_bytes()) // 2):
        (cut := tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:length])
        with pytest.raises(UserError, match=r"cut\.npz must be a whole \.npz file"):
            read_statistics(cut, SMALL)


def test_statistics_come_back_as_they_were_written(tmp_path):
    about = {"features": "inception", "images": 7}
    write_statistics(path := tmp_path / "stats.npz", (MU, SIGMA), (MU[:3], SIGMA[:3, :3]), about)
    found = read_statistics(path, SMALL)
    np.testing.assert_array_equal(found.pool[1], SIGMA)
    assert found.spatial is not None
    np.testing.assert_array_equal(found.spatial[0], MU[:3])
    assert found.about == about
    assert list(tmp_path.iterdir()) == [path]


def test_statistics_without_a_word_are_inceptions(tmp_path):
    np.savez(path := tmp_path / "adm_in256_stats.npz", mu=MU.astype(np.float32), sigma=SIGMA.astype(np.float32))
    assert read_statistics(path, SMALL).about == {"features": "inception"}


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 4, 2)])
def test_arrays_that_are_no_images_are_refused(tmp_path, shape):
    np.savez(path := tmp_path / "images.npz", arr_0=np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="must be uint8 images"):
        images_of(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("held_out", "score.reference=held_out must be train, held-out, a folder of images, or a file"),
        ("empty", "holds no image"),
        ("stats.npz", "holds statistics of inception features, not of score.features=digits"),
    ],
)
def test_a_reference_that_cannot_be_stops_a_run_before_it_starts(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "stats.npz", mu=MU, sigma=SIGMA)
    with pytest.raises(UserError) as error:
        Cell("x", override(DIGITS, {"score.reference": name}), ("score",)).stages()
    assert message in str(error.value)


def test_features_come_back_as_they_were_written(tmp_path):
    arrays = extraction.Extracted(np.eye(3, 4, dtype=np.float32), None, np.ones((3, 2), np.float32))
    extraction.write(path := tmp_path / "f.safetensors", extraction.Real(arrays, np.arange(3), "p"), {"weights": "w"})
    found, about = extraction.read(path)
    assert json.dumps(about) == '{"weights": "w"}'
    assert (found.pixel_hash, found.extracted.logits, len(found)) == ("p", None, 3)
    np.testing.assert_array_equal(found.extracted.spatial, arrays.spatial)
    np.testing.assert_array_equal(found.labels, np.arange(3))
