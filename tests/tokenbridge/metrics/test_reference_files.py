"""Files of reference statistics that cannot be right are refused before anything runs, with the reason."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from tokenbridge.config import Score, UserError
from tokenbridge.metrics import extraction
from tokenbridge.metrics.reference_files import images_of, read_statistics, write_statistics
from tokenbridge.metrics.scorers import SCORERS, weights_hash
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
        ({"mu": MU, "sigma": SIGMA, "about": np.array('{"features": "clean"}')}, r"must be clean, of whose features"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array("{")}, r"about of .* must be a JSON object"),
        (
            {"mu": MU, "sigma": SIGMA, "about": np.array('{"images": "many"}')},
            r"says images='many' and must be of 2 im",
        ),
        ({"mu": MU, "sigma": SIGMA, "about": np.array('{"images": 1}')}, r"says images=1 and must be of 2 images"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array("[1]")}, r"about of .* must be a JSON object"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array([{}], object)}, r"must be a whole \.npz file"),
        ({"mu": np.array(list("abcde")), "sigma": SIGMA}, r"mu of .* is <U1 and must be numbers"),
        ({"mu": MU, "sigma": SIGMA.astype(complex)}, r"sigma of .* is complex128 and must be numbers"),
        ({"mu": MU, "sigma": with_value(SIGMA, (1, 1), -0.5)}, r"sigma of .* must have no eigenvalue below 0"),
    ],
)
def test_unusable_statistics_are_refused(tmp_path, arrays, message):
    np.savez(path := tmp_path / "stats.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        read_statistics(path, SMALL, "inception")
    assert "\n" not in str(error.value)


def test_cut_files_are_refused(tmp_path):
    np.savez(whole := tmp_path / "whole.npz", mu=MU, sigma=SIGMA)
    for length in (10, len(whole.read_bytes()) // 2):
        (cut := tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:length])
        with pytest.raises(UserError, match=r"cut\.npz must be a whole \.npz file"):
            read_statistics(cut, SMALL, "inception")


def test_statistics_come_back_as_they_were_written(tmp_path):
    about = {"features": "inception", "images": 7}
    write_statistics(path := tmp_path / "stats.npz", (MU, SIGMA), (MU[:3], SIGMA[:3, :3]), about)
    found = read_statistics(path, SMALL)
    np.testing.assert_array_equal(found.pool[1], SIGMA)
    assert found.spatial is not None
    np.testing.assert_array_equal(found.spatial[0], MU[:3])
    assert found.about == about
    assert list(tmp_path.iterdir()) == [path]


def test_statistics_without_a_word_are_what_they_are_said_to_be(tmp_path):
    np.savez(path := tmp_path / "adm_in256_stats.npz", mu=MU.astype(np.float32), sigma=SIGMA.astype(np.float32))
    assert read_statistics(path, SMALL, "inception").about == {"features": "inception"}
    with pytest.raises(UserError, match=r"does not say whose features .*score.reference_features=inception"):
        read_statistics(path, SMALL)
    with pytest.raises(UserError, match=r"holds statistics of clean features, not of score\.features=inception"):
        read_statistics(path, SMALL, "clean")
    clean = replace(SCORERS["clean"], width=5)
    assert read_statistics(path, clean, "clean").about == {"features": "clean"}
    with pytest.raises(UserError, match="does not say whose features"):
        read_statistics(path, clean)


def test_statistics_by_other_weights_are_refused(tmp_path):
    write_statistics(path := tmp_path / "stats.npz", (MU, SIGMA), None, {"features": "inception", "weights": "a" * 64})
    assert read_statistics(path, SMALL, None, "a" * 64).pool[0][4] == 4
    with pytest.raises(UserError, match="by weights aaaaaaaaaaaa of inception, and those here are bbbbbbbbbbbb; take"):
        read_statistics(path, SMALL, None, "b" * 64)


DIGITS_MOMENTS = {"mu": np.zeros(64), "sigma": np.eye(64)}


@pytest.mark.parametrize(
    ("arrays", "words", "message"),
    [
        (DIGITS_MOMENTS, (), "does not say whose features its statistics are of"),
        (DIGITS_MOMENTS, ("inception",), "holds statistics of inception features, not of score.features=digits"),
        (DIGITS_MOMENTS | {"about": '{"features": "digits", "weights": "0"}'}, (), "by weights 0 of digits"),
        (DIGITS_MOMENTS | {"about": '{"features": "digits", "image_size": 32}'}, (), "is of images of 32 pixels"),
        (
            DIGITS_MOMENTS | {"about": '{"features": "digits"}'},
            ("clean",),
            "score.reference_features=clean must be dig",
        ),
        (
            {"arr_0": np.zeros((4, 16, 8, 3), np.uint8)},
            (),
            "is of images of 8 pixels, which must be data.image_size=16",
        ),
        ({"arr_0": np.zeros((1, 16, 16, 3), np.uint8)}, (), "holds 1 images and must hold 4 at least"),
        ({"arr_0": np.zeros((3, 16, 16, 3), np.float32)}, (), "arr_0 of .* is float32"),
        ({"arr_0": np.array([{}], object)}, (), r"is object \(1,\) and must be uint8 images"),
    ],
)
def test_planning_refuses_a_file_that_does_not_fit_the_run(tmp_path, arrays, words, message):
    np.savez(path := tmp_path / "stats.npz", **{key: np.array(value) for key, value in arrays.items()})
    config = override(
        DIGITS, {"score.reference": str(path), **dict(zip(["score.reference_features"], words, strict=False))}
    )
    with pytest.raises(UserError, match=message):
        Cell("x", config, ("score",)).stages()


def test_planning_takes_a_file_that_is_declared(tmp_path):
    np.savez(path := tmp_path / "stats.npz", **DIGITS_MOMENTS)
    config = override(DIGITS, {"score.reference": str(path), "score.reference_features": "digits"})
    plain = override(DIGITS, {"score.reference": str(tmp_path)})
    assert Cell("x", config, ("score",)).stages()[-1].id
    assert "reference_features" not in plain.model_dump()["score"]


@pytest.mark.parametrize(
    ("features", "weights", "message"),
    [
        (np.zeros((3, 64)), "other", "holds features of other weights than score.features=digits has here"),
        (np.zeros((3, 5)), "", "holds features of other weights"),
        (np.zeros((1, 64)), "", "holds 1 images and must hold 4 at least"),
        (np.zeros(0), None, "must be a whole file of features"),
        (np.full((4, 64), np.nan), "", "features of .* has 256 values that are not finite"),
    ],
)
def test_planning_refuses_kept_features_that_do_not_fit(tmp_path, features, weights, message):
    path, own = tmp_path / "f.safetensors", weights_hash(Score(), "digits")
    real = extraction.Real(extraction.Extracted(features.astype(np.float32)), None, "p")
    extraction.write(path, real, {"weights": weights or own})
    if weights is None:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=message):
        Cell("x", override(DIGITS, {"score.reference": str(path)}), ("score",)).stages()


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 4, 2)])
def test_arrays_that_are_no_images_are_refused(tmp_path, shape):
    np.savez(path := tmp_path / "images.npz", arr_0=np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="must be uint8 images"):
        images_of(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("held_out", "score.reference=held_out must be train, validation, test, a folder of images, or a file"),
        ("empty", "holds no image"),
        ("stats.npz", "does not say whose features its statistics are of"),
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
