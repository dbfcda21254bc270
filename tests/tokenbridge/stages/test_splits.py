"""Which images each number is of: train, validation, test."""

import pytest

from experiments.pipeline import Cell
from experiments.runner import run_cells
from tests.conftest import SHORT
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_journal, read_metrics

RUNTIME = Runtime(threads=1, bars=False)


def test_each_protocol_names_its_split(finished):
    store, cell = finished
    protocol = {s.kind.name: read_metrics(store.folder(s.id)).protocol for s in cell.stages() if s.kind.measured}
    assert protocol["likelihood"]["split"] == protocol["reconstruct"]["split"] == "test"
    assert protocol["score"]["floor"] == "test against train"
    assert protocol["quantizer"]["values"].startswith("test latents")
    (training,) = (read_metrics(store.folder(s.id)) for s in cell.stages() if s.kind.name == "train")
    assert training.protocol["validation_images"] == 240
    assert training.metrics["validation_loss"] > 0


def test_the_split_enters_the_ids_of_what_is_measured_on_it_alone(tiny):
    ids, others = (
        {stage.kind.name: stage.id for stage in Cell("x", override(tiny, [f"score.split={split}"])).stages()}
        for split in ("test", "validation")
    )
    assert {kind for kind in ids if ids[kind] != others[kind]} == {"reconstruct", "likelihood", "score"}


@pytest.mark.parametrize("kind", ["reconstruct", "likelihood"])
def test_what_needs_validation_images_says_so(tiny, kind):
    config = override(tiny, ["data.validation_fraction=0", "score.split=validation"])
    with pytest.raises(UserError, match=r"score\.split=validation needs validation images, and data\.validation_fract"):
        STAGES[kind].reads(config)


@pytest.mark.slow
def test_a_cell_on_validation_images_and_one_without_any(tiny, tmp_path, capfd):
    store = Store(tmp_path)
    measured = {}
    for words in (["score.split=validation"], ["data.validation_fraction=0"]):
        cell = Cell("x", override(tiny, [*SHORT, *words]))
        run_cells(store, [cell], RUNTIME, "tests")
        measured |= {(words[0], s.kind.name): read_metrics(store.folder(s.id)) for s in cell.stages() if s.kind.result}
        train = next(store.folder(s.id) for s in cell.stages() if s.kind.name == "train")
    assert {m.protocol["images"] for (_, kind), m in measured.items() if kind != "score"} == {240, 359}
    assert measured["score.split=validation", "likelihood"].protocol["split"] == "validation"
    assert measured["score.split=validation", "reconstruct"].protocol["images"] == 240
    assert measured["score.split=validation", "score"].protocol["floor"] == "validation against train"
    assert measured["score.split=validation", "score"].metrics["fd_digits_floor_images"] == 240
    assert "train: no validation images (data.validation_fraction=0), so no validation loss" in capfd.readouterr().out
    assert "validation_loss" not in read_metrics(train).metrics
    assert {line[0] for line in read_journal(train / "metrics.jsonl")} == {"loss", "learning_rate"}
    assert measured["data.validation_fraction=0", "score"].protocol["reference_images"] == 1438
