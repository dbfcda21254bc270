"""What a run says at its end: few numbers that say more than their names, and sheets of images that can be opened."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.cli.headline import MOST, every_number, headline, sheets
from experiments.pipeline import Cell
from tokenbridge.store.runs import read_metrics


def rows(lines):
    """Key and number of each metric; what is indented goes on."""
    return {line.split()[0]: float(line.split()[1]) for line in lines[:-1] if not line.startswith(" ")}


def test_the_headline_of_a_whole_cell(finished):
    store, cell = finished
    said = headline(store, cell)
    numbers = rows(said)
    assert [*numbers] == [
        "score/fd_digits", "score/agreement", "score/precision_digits", "score/recall_digits",
        "likelihood/bits_per_dim", "reconstruct/psnr", "reconstruct/fd_digits", "quantizer/mse",
    ]  # fmt: skip
    assert len(numbers) <= MOST
    stages = {
        stage.kind.name: read_metrics(store.folder(stage.id)).metrics
        for stage in cell.stages()
        if stage.kind.name in ("score", "quantizer")
    }
    assert numbers["score/fd_digits"] == pytest.approx(stages["score"]["fd_digits"], abs=0.005)
    assert numbers["score/agreement"] == pytest.approx(100 * stages["score"]["agreement"], abs=0.05)
    assert numbers["quantizer/mse"] == pytest.approx(1000 * stages["quantizer"]["mse"], abs=0.005)
    text = " ".join(" ".join(said).split())
    assert f"real images read {stages['score']['fd_digits_floor']:.2f}" in text
    assert (
        "% ↑ agreement: share of generated images that the classifier reads as the class asked for; chance is 10 %"
        in text
    )
    assert "MSE ×10³: mean squared error" in text
    assert said[-1] == "↓ lower is better, ↑ higher; --all prints every number"
    assert all(len(line) <= 120 for line in said)
    everything = {line.split()[0] for line in every_number(store, cell)}
    assert {*numbers} < everything
    assert "score/fd_digits_se" in everything


def test_stages_without_a_headline_show_their_own_numbers(finished):
    store, cell = finished
    assert {"quantizer/mse", "train/validation_loss"} <= rows(
        headline(store, Cell("x", cell.config, ("train",)))
    ).keys()
    assert rows(headline(store, Cell("x", cell.config, ("sample",))))["sample/images"] == 71
    assert headline(store, Cell("x", cell.config, ("latents",))) == []


def test_sheets_are_pictures_of_what_the_stages_left(finished):
    store, cell = finished
    lines = list(sheets(store, cell))
    paths = [line.partition(": ")[0] for line in lines]
    assert [line.partition(": ")[2] for line in lines] == [
        "samples, their classes in turn",
        "reconstructions, below their originals",
    ]
    sample = next(stage for stage in cell.stages() if stage.kind.name == "sample")
    assert paths[0] == str(store.root / "sheets" / f"{sample.id}.png")
    with np.load(store.folder(sample.id) / "examples.npz") as examples:
        first = examples["images"][0, 0]
    before = Path(paths[0]).read_bytes()
    sheet = np.asarray(Image.open(io.BytesIO(before)))
    factor = sheet[:, : sheet.shape[1] // 10].shape[1] // 16
    assert np.array_equal(sheet[: 16 * factor : factor, : 16 * factor : factor], first)
    assert list(sheets(store, cell)) == lines
    assert Path(paths[0]).read_bytes() == before
