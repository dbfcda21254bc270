"""What lies on disk, damaged: each file is named in one line, and its remedy works when it is followed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells, run_stage
from tests.conftest import TINY
from tokenbridge.config import Runtime, UserError
from tokenbridge.data.files import SPLITS
from tokenbridge.metrics import extraction
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store, file_hash, recorded, write_json
from tokenbridge.store.runs import read_cell, read_metrics

RUNTIME = Runtime(threads=1, bars=False)


@pytest.fixture
def copy(finished, tmp_path):
    """The store of a finished cell, its stages' ids by kind, and a call that runs what is missing."""
    store, cell = Store(shutil.copytree(finished[0].root, tmp_path / "runs")), finished[1]
    ids = {stage.kind.name: stage.id for stage in cell.stages()}

    def again():
        run_cells(store, [Cell("tiny", cell.config, RECONSTRUCTION + GENERATION)], RUNTIME, "tests")

    return store, ids, again


def flip(path, place=0.6):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def without(store, ids, *kinds):
    for kind in kinds:
        shutil.rmtree(store.folder(ids[kind]))


def test_the_manifest_has_a_checksum_of_each_file(copy):
    store, ids, _ = copy
    for id in ids.values():
        sums = store.manifest(id)["checksums"]
        there = {path.name for path in store.folder(id).iterdir()} - {"manifest.json"}
        assert there - sums.keys() <= {f"{split}_moments.npy" for split in SPLITS}
        assert {name: file_hash(store.folder(id) / name) for name in sums} == sums


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "reader"),
    [
        ("sample", "samples.npy", "score"),
        ("sample", "labels.npy", "score"),
        ("sample", "metrics.json", "score"),
        ("train", "model.safetensors", "sample"),
        ("quantizer", "quantizer.safetensors", "reconstruct"),
        ("latents", "stats.json", "quantizer"),
        ("latents", "checksums.json", "quantizer"),
        ("latents", "train_moments.npy", "quantizer"),
        ("latents", "test_labels.npy", "reconstruct"),
        ("latents", "manifest.json", "quantizer"),
    ],
)
def test_a_flipped_bit_is_named_and_its_remedy_works(copy, kind, name, reader):
    store, ids, again = copy
    path, before = store.folder(ids[kind]) / name, read_metrics(store.folder(ids[reader])).metrics
    if name == "manifest.json":
        path.write_text(path.read_text().replace(ids[kind], ids["sample"]))
    else:
        flip(path)
    without(store, ids, reader)
    with pytest.raises(UserError, match=rf"{name}.* delete .*{ids[kind]} and run again") as caught:
        again()
    assert "\n" not in str(caught.value)
    assert not store.finished(ids[reader])
    without(store, ids, kind)
    again()
    assert before == read_metrics(store.folder(ids[reader])).metrics


def test_kept_features_have_a_checksum(copy):
    store, ids, again = copy
    files = sorted((store.root / "features").glob("*.safetensors"))
    for path in files:
        flip(path, 0.9)
    without(store, ids, "score")
    for _ in files:  # each that is read is named in its turn
        with pytest.raises(UserError, match=r"safetensors is damaged .*; delete it and run again") as caught:
            again()
        next(path for path in files if str(path) in str(caught.value)).unlink()
    again()
    for path in files:
        extraction.read(path)


def test_features_of_before_they_had_a_checksum(copy):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = next((copy[0].root / "features").glob("*.safetensors"))
    with safe_open(path, "numpy") as file:
        about = {key: value for key, value in file.metadata().items() if key != "sha256"}
    arrays = load_file(path)
    save_file(arrays, path, about)
    real, told = extraction.read(path)
    assert np.array_equal(real.extracted.features, arrays["features"])
    assert "sha256" not in told


def test_a_store_of_before_manifests_had_checksums(copy):
    store, ids, again = copy
    for id in ids.values():
        manifest = store.manifest(id)
        del manifest["checksums"]
        write_json(store.folder(id) / "manifest.json", manifest)
    before = read_metrics(store.folder(ids["score"])).metrics
    without(store, ids, "score", "sample", "reconstruct")
    again()
    assert read_metrics(store.folder(ids["score"])).metrics == before


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_a_stage_without_a_manifest_is_refused_before_anything_runs(copy, what):
    store, ids, again = copy
    folder = store.folder(ids["score"])
    without(store, ids, "sample")
    (folder / "manifest.json").unlink()
    if what != "folder":
        shutil.rmtree(folder)
        folder.write_text("x") if what == "file" else folder.symlink_to("nowhere")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{ids['score']} has no manifest.json .*; delete it and run again"):
            again()
        assert not store.finished(ids["sample"])
    shutil.rmtree(folder) if what == "folder" else folder.unlink()
    again()
    assert store.finished(ids["score"])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '{"id": "x"}', "names", "stages", "other", "folder"])
def test_a_damaged_cell_costs_its_file_alone(copy, content):
    store, _, again = copy
    path = next((store.root / "cells").glob("*.json"))
    whole = json.loads(path.read_text())
    changed = {"names": {"names": 3}, "stages": {"stages": ["a"]}, "other": {"id": "0123456789ab"}}
    path.unlink()
    if content == "folder":
        path.mkdir()
    else:
        path.write_text(json.dumps(whole | changed[content]) if content in changed else content)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{path.name} .*; delete it and run again"):
            again()
    path.rmdir() if content == "folder" else path.unlink()
    again()
    assert read_cell(store, path.stem).stages == whole["stages"]


@pytest.mark.parametrize("kind", ["latents", "train"])
def test_a_kill_between_the_manifest_and_the_rename(copy, kind):
    """The stage is finished at the second try, and its checksums hold."""
    store, ids, again = copy
    folder = store.folder(ids[kind])
    folder.rename(partial := folder.with_name(f"{folder.name}.partial"))
    assert recorded(partial) == {}
    again()
    assert "manifest.json" not in store.manifest(ids[kind])["checksums"]
    for name, sha256 in recorded(folder).items():
        assert file_hash(folder / name) == sha256


@pytest.mark.parametrize("sums", [[1], "abc", 5, True])
def test_checksums_of_another_kind(copy, sums):
    store, ids, _ = copy
    folder = store.folder(ids["score"])
    write_json(folder / "manifest.json", store.manifest(ids["score"]) | {"checksums": sums})
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(its checksums must be a JSON object\)"):
        read_metrics(folder)


def test_what_has_changed_since_planning_is_not_made_under_the_old_id(copy):
    """As a job of Slurm that waited while images were replaced: it reads other images than its id says."""
    store = copy[0]
    stage = next(s for s in Cell("tiny", override(DIGITS, TINY), ("score",)).stages() if s.kind.name == "latents")
    with pytest.raises(UserError, match="that latents reads have changed since it was planned as latents-0123"):
        run_stage(store, replace(stage, id="latents-0123"), RUNTIME)
    assert not list((store.root / "stages").glob("latents-0123*"))
