"""The list of stages: each has a file of its name, and a new one takes a single declaration."""

import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from analysis.frame.load import frame_from_stages
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.progress import seconds_of_work
from experiments.runner import run_cells
from experiments.tracking.records import find_records
from tests.experiments.cli.test_init import images
from tests.helpers.machine import ROOT
from tokenbridge.config import Runtime, Sample
from tokenbridge.data.files import split_of
from tokenbridge.overrides import override
from tokenbridge.stages import STAGES, Kind
from tokenbridge.store.artifacts import Store, write_json
from tokenbridge.store.runs import write_metrics


@pytest.mark.parametrize("kind", STAGES.values(), ids=lambda kind: kind.name)
def test_a_stage_is_the_file_of_its_name(kind):
    assert kind.run.__code__.co_filename == str(ROOT / "tokenbridge" / "stages" / f"{kind.name}.py")
    assert all(list(STAGES).index(name) < list(STAGES).index(kind.name) for name in kind.needs)


def test_a_training_depends_on_the_sections_of_all_that_it_needs():
    sections = {"data", "autoencoder", "latents", "quantizer", "backbone", "head", "train"}
    assert STAGES["train"].all_sections == sections


@pytest.fixture
def toy(monkeypatch):
    """A stage as somebody would add it: a declaration, and a file with its function."""

    def run(config, inputs, out, runtime):
        images = np.zeros((2, 1, 8, 8), np.uint8)
        np.savez_compressed(out / "examples.npz", images=images)
        labels = np.load(inputs["latents"] / "test_labels.npy")
        metrics = {"images_per_level": len(labels) / config.quantizer.levels}
        write_metrics(out, metrics, {"images": len(labels)})

    module = ModuleType("tokenbridge.stages.toy")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    declaration = Kind(
        "toy",
        lambda config: {"levels": config.quantizer.levels},
        needs=("latents",),
        examples="always",
        pictures={"toy.png": ("images",)},
    )
    monkeypatch.setitem(STAGES, "toy", declaration)


def test_a_new_stage_takes_one_declaration(toy, tiny, with_latents, tmp_path):
    store, cell = with_latents(tmp_path), Cell("toys", tiny, ("toy",))
    run_cells(store, [cell], Runtime(threads=1), "tests")

    latents, stage = cell.stages()
    assert stage.id.startswith("toy-")
    assert stage.id != Cell("", override(tiny, ["quantizer.levels=5"]), ("toy",)).stages()[-1].id
    manifest = store.manifest(stage.id)
    assert (manifest["kind"], manifest["reads"], manifest["inputs"]) == ("toy", {"levels": 16}, {"latents": latents.id})

    content = find_records(store, [cell.id])[-1].content()
    assert content.metrics["toy/images_per_level"] == 359 / 16
    assert content.tags["stage.toy"] == stage.id
    assert content.files["toy/toy.png"].startswith(b"\x89PNG")

    row = frame_from_stages(tmp_path).iloc[0]
    assert (row["stage.toy"], row["toy/images_per_level"]) == (stage.id, 359 / 16)


def test_a_declaration_goes_to_another_process_by_its_name(monkeypatch):
    monkeypatch.setitem(STAGES, "toy", Kind("toy", lambda config: {}))
    assert pickle.loads(pickle.dumps(STAGES["toy"])) is STAGES["toy"]


def test_a_stage_that_this_version_lacks_tells_no_time(finished, tmp_path):
    store = Store(tmp_path)
    folder = store.folder("balance-0123456789ab")
    folder.mkdir(parents=True)
    write_json(
        folder / "manifest.json",
        {**finished[0].manifest(finished[1].stages()[0].id), "kind": "balance", "id": folder.name},
    )
    assert seconds_of_work(store) == {name: kind.seconds for name, kind in STAGES.items()}


def test_work_grows_with_the_images_and_their_pixels(tmp_path):
    """So that the time left of other data is no guess by the times of these."""
    images(tmp_path / "few", ("a", "b"), 10, (32, 32))
    folder = ["data.source=folder", f"data.path={tmp_path / 'few'}", "data.classes=2", "data.image_size=32"]
    few = override(DIGITS, [*folder, "autoencoder.stride=8"])  # as many positions
    trained = len(split_of(few.data, "train")[1])
    assert STAGES["train"].work(few) == pytest.approx(STAGES["train"].work(DIGITS) * trained / 1198)
    assert STAGES["latents"].work(DIGITS) == 1
    assert STAGES["latents"].work(few) == pytest.approx(4 * trained / 1198)
    gone = override(few, [f"data.path={tmp_path / 'gone'}"])
    assert STAGES["train"].work(gone) == STAGES["train"].work(DIGITS)


def id_of(kind, *words, base=DIGITS):
    cell = Cell("a", override(base, words), ("score",))
    return next(stage.id for stage in cell.stages() if stage.kind.name == kind)


@pytest.mark.parametrize(
    ("head", "idle", "read"),
    [
        (("head.kind=parallel",), ("head.start=released", "sample.head_steps=50"), "sample.top_k=3"),
        (("head.kind=flow", "quantizer.kind=identity"), ("head.start=released",), "sample.head_steps=7"),
        ((), ("sample.head_steps=50",), "head.start=released"),
    ],
)
def test_what_no_draw_reads_makes_no_other_samples(head, idle, read):
    """Else as many images are drawn and scored again, and come out the same."""
    plain = id_of("sample", *head)
    assert {id_of("sample", *head, word) for word in idle} == {plain}
    assert id_of("sample", *head, read) != plain


def test_times_of_other_programs_are_other_stages():
    speed = Cell("a", DIGITS, ("speed",)).stages()[0].id
    for word in ("train.compile=true", "train.mask_ratio_deviation=2"):
        (stage,) = Cell("a", override(DIGITS, [word]), ("speed",)).stages()
        assert stage.id != speed


def test_scores_of_given_samples_are_of_their_data():
    """The same files beside other training and test images read other numbers."""
    given = DIGITS.model_copy(update={"sample": Sample(images=50, given="sha256:0123456789ab")})
    ways = ((), ("data.split_seed=7",), ("data.test_fraction=0.6",))
    assert len({id_of("score", *words, base=given) for words in ways}) == 3
    assert len({id_of("sample", *words, base=given) for words in ways}) == 1


def test_a_forecast_looks_at_no_images_of_earlier_stages(finished, tmp_path, monkeypatch):
    """They may be another user's, gone, or of a set that would be downloaded."""
    store = Store(tmp_path)
    id = next(stage.id for stage in finished[1].stages() if stage.kind.name == "latents")
    about = {key: value for key, value in finished[0].manifest(id).items() if key != "id"}
    about["config"]["data"] |= {"source": "torchvision", "name": "CIFAR10", "path": str(tmp_path / "gone")}
    for number in range(3):
        folder = store.folder(f"latents-{number:012x}")
        folder.mkdir(parents=True)
        write_json(folder / "manifest.json", about | {"work": 4.0, "wall_seconds": 2.0})
    monkeypatch.setattr("tokenbridge.data.torchvision_sets._download", None)
    assert seconds_of_work(store)["latents"] == 0.5
    write_json(folder / "manifest.json", {key: value for key, value in about.items() if key != "work"})
    assert seconds_of_work(store)["latents"] == 0.5
    assert finished[0].manifest(id)["work"] == STAGES["latents"].work(finished[1].config)
    away = override(DIGITS, ["data.source=torchvision", "data.name=CIFAR10", f"data.path={tmp_path / 'gone'}"])
    assert STAGES["train"].work(away) == STAGES["train"].work(DIGITS)
