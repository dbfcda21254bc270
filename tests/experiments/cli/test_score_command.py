"""tokenbridge score: any images against any others, and what the libraries say of the same."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from experiments.cli.score import _drawn
from tests.helpers.machine import ROOT
from tests.helpers.scorers import pictures, write_clean, write_clip, write_inception, write_pictures
from tokenbridge.library import image_sets
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.store.artifacts import Store, write_array, write_json
from tokenbridge.store.runs import EXPERIMENT, RecordedCell, write_cells, write_classes

SAMPLES, REAL = 6, 5
"""images: as few as neighbours allow, because each costs Inception a fifth of a second"""


def numbers(done) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    for write in (write_inception, write_clean, write_clip):
        write(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_pictures(root / "samples", pictures(SAMPLES, seed=1, size=24))
    write_pictures(root / "real", pictures(REAL, size=24))
    return root


@pytest.mark.slow
def test_two_folders_without_any_download(call, tmp_path):
    """As tokenbridge/README.md says it."""
    for seed, name in enumerate(("SAMPLES", "REF")):
        write_pictures(tmp_path / name, pictures(24, seed, size=32))
    page = (ROOT / "tokenbridge" / "README.md").read_text()
    train, score = re.search(r"Without a download: `tokenbridge ([^`]+)`, then `tokenbridge ([^`]+)`", page).groups()
    assert call(*train.split(), "--threads", 1, cwd=tmp_path).returncode == 0
    (found,) = numbers(call(*score.split(), "--json", cwd=tmp_path))
    assert found["metrics"]["fd_autoencoder"] > 0
    assert (found["protocol"]["samples"], found["protocol"]["reference"]) == ("SAMPLES", "REF")


def by_class(root, count, size=16, seed=0, names="ab"):
    """Grey images that the shipped digits' classifier takes, in class folders."""
    rng = np.random.default_rng(seed)
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 128, (size, size)) + 127 * (place % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:The .disp. argument:DeprecationWarning")
def test_numbers_are_those_of_the_libraries_called_on_the_same_folders(call, folders, weights):
    from torch_fidelity import calculate_metrics

    words = ("--reference", folders / "real", "--features", "inception,clean,clip", "--weights", weights)
    found = numbers(call("score", folders / "samples", *words, "--trust-weights", "--json", cwd=folders))
    inception, clean, clip = found
    theirs = calculate_metrics(
        input1=str(folders / "samples"), input2=str(folders / "real"), isc=True, fid=True, kid=True,
        feature_extractor_weights_path=str(weights / SCORERS["inception"].file), isc_splits=1, kid_subset_size=REAL,
        cuda=False, cache=False, save_cpu_ram=True, verbose=False, batch_size=SAMPLES, rng_seed=0,
    )  # fmt: skip
    ours = inception["metrics"]
    assert ours["fid_tf"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["is_tf"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert ours["kid_tf_x1e3"] == pytest.approx(1000 * theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert clean["metrics"]["fid_clean"] == pytest.approx(_clean_fid(folders, weights), rel=1e-6)
    assert clip["metrics"]["cmmd"] > 0
    assert inception["protocol"]["reference_images"] == REAL
    assert "too few for the 2048 features" in inception["warnings"][0]


def _clean_fid(folders, weights) -> float:
    """clean-fid's own reading of files and its Fréchet distance."""
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    network = InceptionV3W(str(weights), download=False, resize_inside=False)
    moments = []
    for name in ("samples", "real"):
        features = fid.get_files_features(
            sorted(map(str, (folders / name).iterdir())), network, num_workers=0,
            device=torch.device("cpu"), mode="clean", verbose=False,
        )  # fmt: skip
        moments += [features.mean(0), np.cov(features, rowvar=False)]
    return fid.frechet_distance(*moments)


def test_classes_agreement_and_memorization_of_named_sets(call, tmp_path):
    found = numbers(
        call("score", "digits:test", "--reference", "digits:validation", "--train", "digits:train", "--features",
             "digits", "--json", cwd=tmp_path)
    )[0]  # fmt: skip
    assert found["metrics"]["agreement"] == 1
    assert [row["class"] for row in found["classes"]] == [str(digit) for digit in range(10)]
    assert abs(found["metrics"]["memorized_digits"]) < 4 * found["metrics"]["memorized_digits_se"]
    assert (found["protocol"]["images"], found["protocol"]["train_images"]) == (359, 1198)
    assert found["half_widths"]["fd_digits"] == pytest.approx(1.96 * found["metrics"]["fd_digits_se"], rel=1e-4)


def test_a_folder_by_class_an_npz_and_kept_words_agree(call, tmp_path):
    """The distance is the definition's, whatever the images are handed over as; classes are matched by name."""
    samples, real = by_class(tmp_path / "samples", 12, seed=1), by_class(tmp_path / "real", 14, names="ba")
    words = ("--features", "digits", "--json", "--runs", "runs")
    found = numbers(call("score", samples, "--reference", real, *words, cwd=tmp_path))[0]
    arrays = [
        np.stack([np.asarray(Image.open(path)) for name in "ab" for path in sorted((folder / name).iterdir())])
        for folder in (samples, real)
    ]
    extractor = load_extractor("digits")
    first, second = (extractor(torch.from_numpy(array[:, None]))[0].double().detach().numpy() for array in arrays)
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert found["metrics"]["fd_digits"] == pytest.approx(expected, rel=1e-4)
    assert [row["class"] for row in found["classes"]] == ["a", "b"]
    assert [row["images"] for row in found["classes"]] == [12, 12]
    np.savez(tmp_path / "s.npz", arr_0=arrays[0][..., None].repeat(3, -1), arr_1=np.repeat([0, 1], 12))
    again = numbers(call("score", "s.npz", "--reference", real, *words, cwd=tmp_path))[0]
    assert again["metrics"] == pytest.approx(found["metrics"] | {"agreement": again["metrics"]["agreement"]}, rel=1e-5)
    assert again["classes"] == []  # its classes are numbers and those are names
    said = f"no class is compared, as s.npz has one called 0 and {real} none; call equal classes by equal names"
    assert said in again["warnings"]


def test_numbers_of_labels_are_not_taken_for_names_in_another_order():
    """Folders 0, 1, 10, 11, 2, … have label 2 for class 10: a number alone may be either."""
    pixels, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 2, 3])
    names = tuple(sorted(map(str, range(12))))
    numbered = image_sets.of_arrays("s.npz", "", pixels, labels)
    assert numbered.labels_among(names) is None
    assert numbered.labels_among(tuple(map(str, range(12)))).tolist() == [0, 1, 2, 3]
    assert image_sets.of_arrays("cell", "", pixels, labels, names).labels_among(names).tolist() == [0, 1, 2, 3]


def test_a_cell_s_labels_have_the_names_of_its_data(tmp_path):
    """As its latents keep them, by label."""
    names, store = [str(i) for i in sorted(map(str, range(12)))], Store(tmp_path)
    stages = {"latents": "latents-000000000001", "sample": "sample-000000000001"}
    for id in stages.values():
        store.folder(id).mkdir(parents=True)
    write_classes(store.folder(stages["latents"]), names)
    write_array(store.folder(stages["sample"]) / "samples.npy", np.zeros((12, 1, 8, 8), np.uint8))
    write_array(store.folder(stages["sample"]) / "labels.npy", np.arange(12))
    for id in stages.values():
        write_json(store.folder(id) / "manifest.json", {})
    write_cells(store, [RecordedCell("0123456789ab", ["digits"], EXPERIMENT, {}, stages)])
    assert _drawn(store, stages["sample"]).classes == tuple(names)


def test_images_beside_a_class_folder_have_no_classes(tmp_path):
    """Of all of them none is known, rather than all being of that folder's class."""
    folder = by_class(tmp_path / "mixed", 3, names="a")
    Image.new("L", (16, 16)).save(folder / "beside.png")
    found = image_sets.of_folder(folder)
    assert (found.count, found.labels, found.classes) == (4, None, ())
    (folder / "beside.png").unlink()
    assert image_sets.of_folder(folder).classes == ("a",)
    # what is kept of cropped images is not taken for that of padded ones
    assert image_sets.of_folder(folder, 32).hash != image_sets.of_folder(folder, 32, padded=True).hash


def test_what_is_printed_names_each_number_and_where_it_is_kept(call, tmp_path):
    done = call("score", "digits:test", "--reference", "digits:train", "--features", "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fd_digits         0.58 ± " in done.stdout
    assert "protocol: features=digits, " in done.stdout
    kept = tmp_path / done.stdout.split("kept in ")[1].strip()
    assert json.loads(kept.read_text())[0]["metrics"]["fd_digits"] == pytest.approx(0.578, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "--reference", "digits"), "nothing is no cell of runs/cells"),
        (("a/b", "--reference", "digits"), "a/b is no folder or file; correct the path"),
        (("digits:all", "--reference", "digits"), "digits:all must end in one of train, validation, test"),
        (
            ("digits", "--reference", "lost.npz"),
            "lost.npz must be a folder of images, or a file ending in .npz or .safetensors",
        ),
        (("digits", "--reference", "large"), "large has images of 20 pixels and must have 16 as digits; give --size"),
        (("digits", "--reference", "large", "--features", "faces"), "must be one or several of"),
        (("digits", "--reference", "digits", "--features", ""), "score.features= must be one or several of"),
        (("digits", "--reference", "digits", "--train", "stats.npz"), "--train=stats.npz must be images"),
        (
            ("digits", "--reference", "stats.npz", "--train", "digits", "--reference-features", "digits"),
            "stats.npz holds statistics and must hold images or features",
        ),
    ],
)
def test_what_cannot_work_is_one_line(call, tmp_path, words, message):
    by_class(tmp_path / "large", 2, size=20)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(64), sigma=np.eye(64))
    done = call("score", *words, *(() if "--features" in words else ("--features", "digits")), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "scores").exists()
