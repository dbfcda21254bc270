"""The records of a runs folder: read back as written, whole after a kill, readable when an older version wrote them."""

import json
from dataclasses import replace

import pytest

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, read_json, write_json
from tokenbridge.store.runs import (
    CellStages,
    RecordedCell,
    StageFiles,
    Sweep,
    discarded,
    read_cell,
    read_cells,
    read_events,
    read_metrics,
    read_sweep,
    stages_with_events,
    sweep_names,
    write_cells,
    write_event,
    write_metrics,
    write_sweep,
)

CELL = RecordedCell("0a1b", ["2a parallel"], "tokenbridge", {"data": {"path": None}}, {"train": "train-1"}, ["mine"])
SWEEP = Sweep(
    name="mine",
    request={"tables": ["2a"]},
    cells={"a": CellStages("first", {"latents": "latents-1", "train": "train-2"})},
    cluster="example",
    code="sweeps/code/1",
    command="tokenbridge grid 2a",
    submitted=5.0,
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_names_stages_and_sweeps_of_a_cell_add_up(store):
    write_cells(store, [CELL])
    assert read_cells(store) == {"0a1b": CELL}
    write_cells(store, [replace(CELL, names=["2b random"], stages={"score": "score-1"}, sweeps=["yours"])])
    both = read_cell(store, "0a1b")
    assert both.names == read_json(store.root / "cells" / "0a1b.json")["names"] == ["2a parallel", "2b random"]
    assert (both.stages, both.sweeps) == ({"train": "train-1", "score": "score-1"}, ["mine", "yours"])
    assert both.name == "2a parallel · 2b random"
    assert all(both.called(text) for text in ("0a1b", "2a parallel", "2b random", both.name))
    assert not both.called("2a")
    write_cells(store, [CELL])
    assert read_cell(store, "0a1b") == both


def test_a_record_that_says_the_same_is_left_and_others_are_written_whole(store):
    cells = [replace(CELL, id=f"{number:04x}", names=[f"cell {number}"]) for number in range(3)]
    write_cells(store, cells[:2])
    before = {path: path.stat().st_ino for path in (store.root / "cells").iterdir()}
    write_cells(store, [cells[0], replace(cells[1], names=["other"]), cells[2], replace(cells[2], names=["twice"])])
    after = {path: path.stat().st_ino for path in (store.root / "cells").iterdir()}
    assert [path.stem for path in after if after[path] == before.get(path)] == ["0000"]
    assert {id: cell.names for id, cell in read_cells(store).items()} == {
        "0000": ["cell 0"], "0001": ["cell 1", "other"], "0002": ["cell 2", "twice"],
    }  # fmt: skip


def test_a_damaged_record_keeps_any_from_being_written(store):
    (store.root / "cells").mkdir(parents=True)
    (store.root / "cells" / f"{CELL.id}.json").write_text("{")
    before = {*store.root.rglob("*")}
    with pytest.raises(UserError, match=rf"{CELL.id}.json .*; delete it and run again"):
        write_cells(store, [replace(CELL, id="another"), CELL])
    assert {*store.root.rglob("*")} == before


def test_a_damaged_record_is_named_once_and_keeps_no_other_back(store, capsys):
    write_cells(store, [CELL])
    (store.root / "cells" / "ffff.json").write_text('{"id": "ff')
    assert read_cells(store) == read_cells(store) == {"0a1b": CELL}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"left out: {store.root}/cells/ffff.json is not readable JSON" in said
    assert said.endswith("; delete it and run again\n")


def test_a_cell_of_an_older_version_holds_its_names_in_one_text(store):
    (store.root / "cells").mkdir()
    old = {"id": "0a1b", "name": "2a parallel · 2b random", "experiment": "tokenbridge", "config": {}, "stages": {}}
    write_json(store.root / "cells" / "0a1b.json", old)
    assert read_cell(store, "0a1b") == RecordedCell("0a1b", ["2a parallel", "2b random"], "tokenbridge", {}, {})
    write_cells(store, [CELL])
    assert read_json(store.root / "cells" / "0a1b.json")["names"] == ["2a parallel", "2b random"]


def test_metrics_read_back(tmp_path):
    write_metrics(tmp_path, {"fd": 1.0, "odd": float("inf")}, {"images": 10}, left_out={"fd": [1.5]}, warnings=[])
    assert read_metrics(tmp_path) == ({"fd": 1.0, "odd": float("inf")}, {"images": 10}, {"fd": [1.5]})
    assert "warnings" not in json.loads((tmp_path / "metrics.json").read_text())


def test_a_sweep_reads_back(store):
    write_sweep(store, SWEEP)
    assert read_sweep(store, "mine") == SWEEP
    assert SWEEP.stages == {"latents-1": "latents", "train-2": "train"}
    assert sweep_names(store) == ["mine"]
    with pytest.raises(UserError, match=r"yours is no sweep; there is mine"):
        read_sweep(store, "yours")
    (store.root / "sweeps" / "mine").rename(store.root / "sweeps" / "all")  # a name that none may have any more
    assert sweep_names(store) == ["all"]
    (store.root / "sweeps" / "all").rename(store.root / "sweeps" / "mine")
    (store.root / "sweeps" / "mine" / "sweep.json").write_text('{"cells": {}, "submitted": 1}')
    with pytest.raises(UserError, match="is no sweep"):
        read_sweep(store, "mine")


def test_a_line_that_a_kill_has_cut_harms_no_other(store):
    assert stages_with_events(store) == set()
    write_event(store, "train-2", "started", {"job": "7"})
    path = store.root / "sweeps" / "events" / "train-2.jsonl"
    path.write_text(path.read_text() + '{"event": "stop')
    write_event(store, "train-2", "failed", {"job": "7", "error": "Traceback\nValueError: no\n"})
    assert [event["event"] for event in read_events(store, "train-2")] == ["started", "failed"]
    assert read_events(store, "train-3") == []
    assert stages_with_events(store) == {"train-2"}
    assert StageFiles(store).failure(["train-3", "train-2"]) == "ValueError: no"


def test_results_that_came_too_late_are_listed(store):
    assert discarded(store) == []
    for event in ("started", "discarded", "discarded"):
        write_event(store, "train-2", event, {"job": "7"})
    assert discarded(store) == ["train-2", "train-2"]
    assert len(read_events(store, "train-2")) == 3
