"""Published scorers with weights of their formats: their features, where weights come from, what a score says."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from tests.helpers.generators import arrays_of
from tests.helpers.scorers import pictures, write_clean, write_dinov2, write_inception, write_pictures
from tests.tokenbridge.stages.test_score import write_samples
from tokenbridge.config import SHIPPED_SCORERS, Data, RunConfig, Runtime, Sample, Score, UserError
from tokenbridge.metrics import extraction, scorers
from tokenbridge.metrics.frechet import frechet_distance, from_moments
from tokenbridge.metrics.networks import DigitsClassifier, load_extractor
from tokenbridge.metrics.published import NETWORKS
from tokenbridge.metrics.reference import write_statistics
from tokenbridge.metrics.scorers import SCORERS, weights_of
from tokenbridge.overrides import override
from tokenbridge.stages import score
from tokenbridge.store.artifacts import file_hash

RUNTIME = Runtime(device="cpu", threads=1, batch=4, trust_weights=True)
SAMPLES, REAL = 6, 4
"""images: as few as neighbours allow, because each costs Inception a fifth of a second"""
ALL = ("inception", "clean", "dinov2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    write_inception(folder)
    write_clean(folder)
    write_dinov2(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of real images, and samples of which one is there twice."""
    root = tmp_path_factory.mktemp("images")
    made = pictures(SAMPLES, seed=1)
    made[-1] = made[0]
    samples = write_samples(root / "sample", made, np.arange(SAMPLES))
    return write_pictures(root / "real" / "deep", pictures(REAL)).parent, samples


def config(weights, features, reference) -> RunConfig:
    return RunConfig(
        data=Data(source="folder", path="-", image_channels=3),
        sample=Sample(iterations=1),
        score=Score(features=features, weights=str(weights), reference=str(reference)),
    )


@pytest.fixture(scope="module")
def scored(weights, images):
    """All scorers on one set of samples, against a folder of images."""
    out = images[1].with_name("score")
    out.mkdir()
    score.run(config(weights, ALL, images[0]), {"sample": images[1]}, out, RUNTIME)
    return out, json.loads((out / "metrics.json").read_text())


def kept(scored, name) -> dict[str, np.ndarray]:
    return extraction.read(scored[0] / f"features-{name}.safetensors")[0].extracted.arrays()


def test_what_is_said_of_each_scorer_is_what_its_network_gives():
    """Said where torch is not imported: by tables and plans."""
    for name, network in {"digits": DigitsClassifier, **NETWORKS}.items():
        assert SCORERS[name].classifies == ("logits" in network.gives)
        assert bool(SCORERS[name].spatial) == ("spatial" in network.gives)


def test_each_scorer_names_its_metrics(scored):
    expected = {"sfid_tf", "is_tf"}
    for fd, name in (("fid_tf", "tf"), ("fid_clean", "clean"), ("fd_dinov2", "dinov2")):
        expected |= {fd, f"{fd}_se", f"kid_{name}_x1e3"}
        expected |= {f"{what}_{name}" for what in ("precision", "recall", "density", "coverage")}
    metrics, protocol = scored[1]["metrics"], scored[1]["protocol"]
    assert metrics.keys() == expected
    assert all(np.isfinite(value) for value in metrics.values())
    for name, suffix in (("inception", "tf"), ("clean", "clean"), ("dinov2", "dinov2")):
        assert protocol[f"{suffix}.features"] == name
        assert (protocol[f"{suffix}.images"], protocol[f"{suffix}.reference_images"]) == (SAMPLES, REAL)
        assert protocol[f"{suffix}.reference"] == "real"
        assert protocol[f"{suffix}.prc_neighborhood"] == 3
        assert protocol[f"{suffix}.kid_subsets"] == 100


def test_what_a_reader_must_know_is_said(scored):
    warnings = "\n".join(scored[1]["warnings"])
    assert f"1 of {SAMPLES} samples are duplicates" in warnings
    assert f"{SAMPLES} samples are too few for the 2048 features of inception" in warnings
    assert f"{REAL} reference images are too few for the 1024 features of dinov2" in warnings
    assert "are not the published weights-inception-2015-12-05-6726825d.pth" in warnings
    assert scored[1]["warnings"][0].startswith("1 of")


def test_kept_features_give_the_numbers_again(scored, weights, images):
    found = kept(scored, "inception")
    assert {name: array.shape for name, array in found.items()} == {
        "features": (SAMPLES, 2048),
        "logits": (SAMPLES, 1008),
        "spatial": (SAMPLES, 2023),
    }
    for name, fd in (("clean", "fid_clean"), ("dinov2", "fd_dinov2")):
        real = load_extractor(name, score=Score(features=name, weights=str(weights)), trusted=True)
        features = extraction.extract(real, pictures(REAL), 4).features
        assert frechet_distance(kept(scored, name)["features"], features) == scored[1]["metrics"][fd]


def test_inception_is_torch_fidelitys_and_its_spatial_features_those_of_adm(scored, weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers, path = ["768", "2048", "logits_unbiased"], weights / SCORERS["inception"].file
    network = FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=path)
    seen = []
    network.Mixed_6d.register_forward_hook(lambda _, __, output: seen.append(output))
    _, features, logits = network(torch.from_numpy(pictures(SAMPLES, seed=1)[:2]))
    found = kept(scored, "inception")
    np.testing.assert_allclose(found["features"][:2], features, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["logits"][:2], logits, rtol=1e-3, atol=1e-3)
    # TensorFlow joins a block's branches with this one first, and has channels last
    np.testing.assert_allclose(
        found["spatial"][:2].reshape(2, 17, 17, 7), seen[0][:, :7].permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4
    )


def test_clean_equals_clean_fid_from_files(weights, images):
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        model = InceptionV3W(str(weights), download=False)
    files = sorted(str(path) for path in images[0].rglob("*.png"))
    cpu = torch.device("cpu")
    theirs = get_files_features(files, model, num_workers=0, batch_size=4, device=cpu, mode="clean", verbose=False)
    ours = load_extractor("clean", score=Score(features="clean", weights=str(weights)), trusted=True)
    np.testing.assert_array_equal(extraction.extract(ours, pictures(REAL), 4).features, theirs)


@pytest.mark.parametrize("name", ["clean", "dinov2"])
def test_grey_images_are_read_as_coloured(weights, name):
    extractor = load_extractor(name, score=Score(features=name, weights=str(weights)), trusted=True)
    grey = pictures(2)[:, :1]
    first, second = (extraction.extract(extractor, each, 2).features for each in (grey, np.repeat(grey, 3, 1)))
    np.testing.assert_array_equal(first, second)


def test_statistics_of_images_are_a_reference(scored, weights, images, tmp_path):
    """Fréchet distances as against the images; what needs the images is left out and the protocol says so."""
    path = tmp_path / "real.npz"
    about = write_statistics(path, images[0], Score(features="dinov2", weights=str(weights)), None, RUNTIME)
    assert about == json.loads(str(arrays_of(path)["about"]))
    assert (about["features"], about["images"], about["image_size"]) == ("dinov2", REAL, 16)
    (out := tmp_path / "stages" / "score").mkdir(parents=True)
    score.run(config(weights, "dinov2", path), {"sample": images[1]}, out, RUNTIME)
    found = json.loads((out / "metrics.json").read_text())
    assert found["metrics"].keys() == {"fd_dinov2", "fd_dinov2_se"}
    assert found["metrics"]["fd_dinov2"] == pytest.approx(scored[1]["metrics"]["fd_dinov2"], rel=1e-6)
    assert found["protocol"]["left_out"].startswith("a file of statistics has no features")
    assert found["protocol"]["reference_images"] == REAL
    other = override(DIGITS, {"score.features": "clean", "score.weights": str(weights), "score.reference": str(path)})
    with pytest.raises(UserError, match=r"holds statistics of dinov2 features, not of score\.features=clean"):
        Cell("x", other, ("score",)).stages()


def test_files_of_images_and_of_features_are_references(scored, weights, images, tmp_path):
    """ADM's files hold images with their statistics: distances are by these, neighbours by the images."""
    real, moments = pictures(REAL).transpose(0, 2, 3, 1), {"mu": np.full(1024, 0.1), "sigma": np.eye(1024)}
    np.savez(tmp_path / "adm.npz", arr_0=real, about=np.array('{"features": "dinov2"}'), **moments)
    np.savez(tmp_path / "images.npz", arr_0=real)
    found = {}
    for reference in (tmp_path / "adm.npz", tmp_path / "images.npz", scored[0] / "features-dinov2.safetensors"):
        (out := tmp_path / "stages" / reference.stem).mkdir(parents=True)
        score.run(config(weights, "dinov2", reference), {"sample": images[1]}, out, RUNTIME)
        whole = json.loads((out / "metrics.json").read_text())
        found[reference.stem] = whole["metrics"]
        unsaid = reference.stem == "adm"  # the others have their features from the weights here
        assert (whole["protocol"].get("reference_weights") == "not said by the file") == unsaid
        assert any("adm.npz does not say by which weights" in line for line in whole["warnings"]) == unsaid
    whole, features = scored[1]["metrics"], kept(scored, "dinov2")["features"]
    expected = frechet_distance(features, from_moments(*moments.values()))
    assert found["adm"]["fd_dinov2"] == pytest.approx(expected)
    assert found["images"]["fd_dinov2"] == pytest.approx(whole["fd_dinov2"])
    for key in ("kid_dinov2_x1e3", "precision_dinov2", "recall_dinov2", "density_dinov2", "coverage_dinov2"):
        assert found["adm"][key] == found["images"][key] == pytest.approx(whole[key], rel=1e-4)
    assert found["features-dinov2"]["fd_dinov2"] < 1e-6
    assert found["features-dinov2"]["precision_dinov2"] == 1
    with pytest.raises(UserError, match=r"holds features of other weights than score\.features=clean"):
        score.run(
            config(weights, "clean", scored[0] / "features-dinov2.safetensors"), {"sample": images[1]}, out, RUNTIME
        )


@pytest.mark.parametrize("name", ALL)
def test_missing_weights_stop_a_run_before_it_starts(name, tmp_path):
    """The message has the file, its public source and what is known of its hash."""
    scorer = SCORERS[name]
    asked = override(DIGITS, {"score.features": name, "score.weights": str(tmp_path)})
    with pytest.raises(UserError) as error:
        Cell("x", asked).stages()
    message = str(error.value)
    assert "\n" not in message
    for part in (str(tmp_path), scorer.file, scorer.source, scorer.sha256[:8], scorer.code):
        assert part in message


def test_what_is_missing_is_downloaded_and_its_hash_checked(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    (public := tmp_path / "server" / "weights.pth").write_bytes(b"weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for right in (False, True):
        digits = file_hash(public)[:8] if right else "0" * 8
        there = dataclasses.replace(
            SCORERS["inception"], file=public.name, source=public.as_uri(), sha256=digits, name="inception"
        )
        monkeypatch.setitem(scorers.SCORERS, "inception", there)
        if right:
            found = weights_of(Score(features="inception"), "inception")
            assert found == tmp_path / "home" / "hub" / "checkpoints" / public.name
            assert found.read_bytes() == b"weights"
        else:
            with pytest.raises(UserError, match=r"downloading it failed .*invalid hash"):
                weights_of(Score(features="inception"), "inception")
    public.unlink()
    assert weights_of(Score(features="inception"), "inception").read_bytes() == b"weights"  # kept


@pytest.mark.parametrize("name", ["inception", "clean"])
def test_weights_of_another_kind_are_refused(name, tmp_path):
    path = tmp_path / SCORERS[name].file
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"must (hold|be)") as error:
        load_extractor(name, score=Score(features=name, weights=str(path)), trusted=True)
    assert "\n" not in str(error.value)


def test_ids_follow_scorers_weights_and_reference(weights, images):
    """Another place of the same files is the same stage; samples are shared."""

    def ids(**settings):
        changes = {f"score.{key}": str(value) for key, value in settings.items()}
        stages = Cell("x", override(DIGITS, changes), ("score",)).stages()
        return {stage.kind.name: stage.id for stage in stages}

    plain, clean = ids(), ids(features="clean", weights=weights)
    both = ids(features="clean,dinov2", weights=weights)
    folder = ids(features="clean", weights=weights, reference=images[0])
    assert len({each["score"] for each in (plain, clean, both, folder)}) == 4
    assert len({each["sample"] for each in (plain, clean, both, folder)}) == 1
    assert ids(features="clean", weights=weights / SCORERS["clean"].file) == clean


def test_those_that_ship_are_the_same_in_settings_and_here():
    assert {name for name, scorer in SCORERS.items() if scorer.shipped} == {*SHIPPED_SCORERS}


@pytest.mark.parametrize("names", ["faces", "clean,clean", "clean,faces", ""])
def test_unknown_scorers_are_refused(names):
    with pytest.raises(UserError, match="must be one or several of digits, fashion, inception, clean, dinov2"):
        override(DIGITS, {"score.features": names})
