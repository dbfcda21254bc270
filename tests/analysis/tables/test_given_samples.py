"""Samples of other programs in tables and verdicts: what is tested against what, and by which errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from analysis.frame.source import Source, read
from analysis.tables.fill import fill
from analysis.tables.filled import Entry
from tests.helpers.report_source import write_source
from tokenbridge.config import UserError

FD, ERROR = 9.2, 0.35
SETS = (9.2, 9.6, 9.1)


def add(folder: Path, label: str, distances: tuple[float, ...], **more: Any) -> None:
    """Make samples with these distances a row of a source."""
    path, plan_path = folder / "source" / "frame.csv", folder / "source" / "plan.json"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    own = json.loads(next(filter(None, frame["protocol.score"])))
    about = {key: value for key, value in own.items() if not key.startswith("sample.")}
    cells = [f"{label}{place}" for place in range(len(distances))]
    lines = []
    for cell, distance in zip(cells, distances, strict=True):
        line = dict.fromkeys(frame.columns, "") | {"cell": cell, "name": cell, "sample.given": f"sha256:{cell}"}
        line |= {"stage.sample": f"sample-{cell}", "stage.score": f"score-{cell}", "sample/images": "2000"}
        line |= {"score/fd_digits": str(distance), "score/fd_digits_se": str(ERROR), "score/agreement": ""}
        protocol = about | {"sample.given": more.get("sample.given", f"sha256:{cell}"), "sample.labels": "none"}
        line |= {"protocol.sample": json.dumps({"labels": "none"}), "protocol.score": json.dumps(protocol)}
        lines.append(line | {key: str(value) for key, value in more.items()})
    pd.concat([frame, pd.DataFrame(lines)]).fillna("").to_csv(path, index=False)
    plan = json.loads(plan_path.read_text())
    plan.setdefault("samples", []).append({"label": label, "cells": cells, "from": [f"{cell}.npz" for cell in cells]})
    plan_path.write_text(json.dumps(plan))


def column(folder: Path, table: str = "2a", title: str = "fd_digits") -> tuple[dict[str, Entry], Source, list[str]]:
    """The entries of a column by row, the source, and the notes of the table."""
    source = read(folder / "source")
    filled = fill(next(each for each in source.tables if each.id == table), source)
    place = [each.title for each in filled.measured].index(title)
    return {row.label: row.measured[place] for row in filled.rows}, source, list(filled.notes)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_source(tmp_path / "three", seeds=3, tables=("2a",), examples=False)


def test_one_set_against_seeds_joins_its_error_over_images_with_their_spread(three) -> None:
    add(three, "Peer", (FD,))
    entries, source, notes = column(three)
    base = [math.log(source.number(id, "score/fd_digits") or 0) for id in source.cells("2a", "autoregressive")]
    parts = [float(np.var(base, ddof=1)) / 3, (ERROR / FD) ** 2]  # distances are compared by their logarithms
    difference, error = math.log(FD) - np.mean(base), math.sqrt(sum(parts))
    found = entries["Peer"].comparison
    assert found is not None
    values = scipy_stats.t.ppf(0.975, 2), scipy_stats.norm.ppf(0.975)
    critical = sum(v * p for v, p in zip(values, parts, strict=True)) / sum(parts)  # Cochran and Cox
    gap = found.difference.gap
    assert gap.mean == pytest.approx(difference, rel=1e-9)
    assert gap.half() == pytest.approx(critical * error, rel=1e-6)
    assert (found.family, found.verdict, found.seeds_needed) == ("exploratory", "better", None)
    assert any("another training of the model behind it would read is not known" in note for note in notes)
    assert any("Peer (1 set)" in note for note in notes)
    assert not any("Sets of samples are taken as seeds" in note for note in notes)


def test_several_sets_are_seeds_that_pair_with_none(three) -> None:
    add(three, "Peer", SETS)
    entries, source, notes = column(three)
    base = [math.log(source.number(id, "score/fd_digits") or 0) for id in source.cells("2a", "autoregressive")]
    expected: Any = scipy_stats.ttest_ind(np.log(SETS), base, equal_var=False)
    found = entries["Peer"].comparison
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert entries["Peer"].estimate is not None
    assert entries["Peer"].estimate.mean == pytest.approx(np.mean(SETS))
    assert any("Sets of samples are taken as seeds are" in note for note in notes)
    assert not any("another training of the model behind" in note for note in notes)


def test_the_same_set_twice_is_one_observation(three) -> None:
    add(three, "Peer", (FD, FD), **{"sample.given": "sha256:one"})
    entries, _, _ = column(three)
    assert entries["Peer"].estimate is not None
    assert entries["Peer"].estimate.seeds == 1


def test_one_training_says_nothing_of_another_beside_a_set_either(tmp_path) -> None:
    one = write_source(tmp_path / "one", seeds=1, tables=("2a",), examples=False)
    add(one, "Peer", (FD,))
    assert column(one)[0]["Peer"].comparison is None
    add(one, "Peers", SETS)
    assert column(one)[0]["Peers"].comparison is None


def test_two_sets_are_told_apart_by_their_images(three) -> None:
    add(three, "Good", (2.0,))
    add(three, "Peer", (FD,))
    entries, _, _ = column(three)
    assert [label for label, entry in entries.items() if entry.best] == ["Good"]


def test_other_verdicts_stay_as_they_were(three, tmp_path) -> None:
    alone = write_source(tmp_path / "alone", seeds=3, tables=("2a",), examples=False)
    add(three, "Peer", (FD,))
    for title in ("fd_digits", "bits/dim"):
        before, after = column(alone, title=title)[0], column(three, title=title)[0]
        for label in before:
            assert after[label].text == before[label].text
            assert after[label].interval == before[label].interval
    claims = [column(each)[0]["parallel"].comparison for each in (alone, three)]
    assert claims[0] == claims[1]  # a claim is corrected with claims alone


def test_what_they_lack_has_a_reason(three) -> None:
    add(three, "Peer", (FD,))
    assert column(three, title="bits/dim")[0]["Peer"].reason == "samples alone"
    assert column(three, title="agreement")[0]["Peer"].reason == "no labels"


def test_they_join_each_table_of_samples_and_no_group_of_a_claim(tmp_path) -> None:
    folder = write_source(tmp_path / "heads", seeds=2, tables=("1a", "2a", "heads"), examples=False)
    add(folder, "Peer", (1e-3,))
    source = read(folder / "source")
    labels = {table.id: [row.label for row in table.rows] for table in source.tables}
    assert [id for id, each in labels.items() if "Peer" in each] == ["2a", "heads"]  # of table 3 no row ran
    from analysis.tables.claims import group

    heads = next(table for table in source.tables if table.id == "heads")
    groups = [group(heads, tokens, source) for tokens in ("post-training", "continuous", "trained")]
    assert all(groups)
    assert not any("Peer" in each for each in groups)


def test_a_label_that_a_later_table_has_is_refused_with_the_remedy(three) -> None:
    add(three, "parallel", (FD,))
    with pytest.raises(UserError, match=r'parallel is a row of Table 2a .* remove synthetic --as "parallel"'):
        _ = read(three / "source").tables


def test_another_protocol_is_refused_and_other_ways_of_drawing_are_not(three) -> None:
    add(three, "Peer", (FD,))
    column(three)  # how others drew their samples is not known, and may differ
    path = three / "source" / "frame.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    protocol = json.loads(frame.loc[frame["cell"] == "Peer0", "protocol.score"].iloc[0]) | {"reference_images": 7}
    frame.loc[frame["cell"] == "Peer0", "protocol.score"] = json.dumps(protocol)
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match="reference_images=1438 in row 'parallel' but 7 in row 'Peer'"):
        column(three)


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.001, 0.02, 0.1, 1.0])
def test_a_set_is_called_other_than_seeds_in_one_of_twenty(error: float) -> None:
    draws, seeds, repetitions, wrong = np.random.default_rng(5), 3, 3000, 0
    for _ in range(repetitions):
        own = stats.estimate(draws.normal(1.0, 0.1, seeds).tolist(), range(seeds))
        wrong += stats.gap_to_set(stats.estimate([draws.normal(1.0, error)], ["x"], error), own).settled
    assert 0.02 < wrong / repetitions < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_set_without_an_error_has_no_test() -> None:
    own = stats.estimate([1.0, 1.1, 1.2], range(3))
    assert stats.gap_to_set(own, stats.estimate([2.0], ["x"])).p is None
    assert stats.gap_to_set(own, stats.estimate([math.nan], ["x"], 0.1)).p is None
