"""One column holds one protocol: what may differ between rows, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.frame.source import Source, read
from analysis.report import facts
from analysis.tables import protocol
from analysis.tables.fill import fill
from experiments.paper import TABLES, Column
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import depends


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_source(tmp_path / "one", tables=("2a",), examples=False)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return write_source(tmp_path / "wide", tables=("heads", "5"), examples=False)


def _source(folder: Path) -> Source:
    return read(folder / "source")


def _change(folder: Path, kind: str, label: str, changes: dict[str, Any], table: str = "heads") -> None:
    """Change fields of the protocol of one row."""
    source = _source(folder)
    before = source.protocol(source.cells(table, label)[0], kind)
    edit_frame(folder, label, {f"protocol.{kind}": json.dumps(before | changes)}, table)


def test_two_protocols_in_one_column_are_refused(one: Path) -> None:
    protocol = _source(one).protocol("cell-b016-r5-parallel-s0", "score")
    edit_frame(one, "parallel", {"protocol.score": json.dumps(protocol | {"images": 500})})
    with pytest.raises(UserError, match=r"2a, column score/fd_digits: images=500 in row 'parallel' but 2000 in row"):
        fill(TABLES["2a"], _source(one))


def test_a_field_that_one_protocol_lacks_is_a_difference(one: Path) -> None:
    edit_frame(one, "autoregressive", {"protocol.likelihood": json.dumps({"split": "test", "images": 360})})
    with pytest.raises(UserError, match=r"likelihood/bits_per_dim: scale=0.731 in row 'parallel' but absent"):
        fill(TABLES["2a"], _source(one))


def test_searched_settings_may_differ_and_are_shown_but_only_where_a_search_was_made(one: Path) -> None:
    filled = fill(TABLES["2a"], _source(one))
    assert [column.key for column in filled.chosen] == ["sample.guidance", "sample.temperature"]
    assert [[entry.text for entry in row.chosen] for row in filled.rows] == [["1.5", "0.9"], ["2", "0.9"]]
    plan = one / "source" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"search": {}}))
    with pytest.raises(UserError, match=r"sample.guidance=1.5 in row 'parallel' but 2.0 in row 'autoregressive'"):
        fill(TABLES["2a"], _source(one))


def test_a_table_at_one_point_says_it_and_holds_all_rows_to_it(one: Path) -> None:
    path = one / "source" / "plan.json"
    points = {"2a": {"sample.guidance": 2.0, "sample.temperature": 0.9}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"points": points}))  # others of the plan are searched
    with pytest.raises(UserError, match=r"sample.guidance=1.5 in row 'parallel' but 2.0 in row 'autoregressive'"):
        fill(TABLES["2a"], _source(one))
    _change(one, "score", "parallel", {"sample.guidance": 2.0}, "2a")
    filled = fill(TABLES["2a"], _source(one))
    assert filled.chosen == ()
    assert "No search: all rows at guidance 2, temperature 0.9." in filled.notes
    assert ("table 2a", "no search, all rows at guidance 2, temperature 0.9") in facts.search(_source(one))


def test_each_head_on_each_token_has_its_own_settings_and_one_protocol(wide: Path) -> None:
    source = _source(wide)
    cells = [ids[0] for _, ids in source.rows(TABLES["heads"])]
    assert {source.protocol(cell, "score")["sample.head_steps"] for cell in cells} == {25, 100}
    assert len({source.protocol(cell, "quantizer")["scale"] for cell in cells}) == 4
    fill(TABLES["heads"], source)


@pytest.mark.parametrize(
    ("kind", "label", "changes", "message"),
    [
        (
            "score",
            "FSQ, parallel",
            {"images": 500},
            r"heads, column score/fd_digits: images=2000 in row 'B=8, auto.*but",
        ),
        (
            "score",
            "continuous, flow",
            {"sample.iterations": 4},
            "sample.iterations=8 in row 'B=8, autoregressive' but 4",
        ),
        (
            "score",
            "B=16, autoregressive",
            {"sample.head": "parallel"},
            "sample.head=autoregressive in row 'B=8, autoregressive'",
        ),
        ("likelihood", "B=16, parallel", {"scale": 0.9}, "scale=0.731 in row 'B=8, autoregressive' but 0.9 in row"),
        ("quantizer", "B=64, parallel", {"scale": 0.9}, "column quantizer/token_bits: scale=0.731 in row .* but 0.9"),
        (
            "quantizer",
            "FSQ, parallel",
            {"scale": 0.9},
            "scale=0.931 in row 'FSQ, autoregressive' but 0.9 in row 'FSQ, p",
        ),
        (
            "train",
            "B=32, parallel",
            {"validation_loss": "raw"},
            "train/parameters: validation_loss=a channel, averaged weights",
        ),
        (
            "speed",
            "B=32, parallel",
            {"threads": 2},
            "column speed/image_ms: threads=1 in row .* but 2 in row 'B=32, parallel'",
        ),
    ],
)
def test_what_no_setting_of_the_table_explains_is_refused(
    wide: Path, kind: str, label: str, changes: dict[str, Any], message: str
) -> None:
    _change(wide, kind, label, changes)
    with pytest.raises(UserError, match=message):
        fill(TABLES["heads"], _source(wide))


def test_a_trained_tokenizer_has_latents_of_its_own(wide: Path) -> None:
    for label, scale in (("FSQ, autoregressive", 0.5), ("FSQ, parallel", 0.5), ("VQ, autoregressive", 0.6)):
        _change(wide, "quantizer", label, {"scale": scale})
    fill(TABLES["heads"], _source(wide))


def test_what_only_continuous_heads_call_otherwise_follows_from_the_head(wide: Path) -> None:
    for label in ("continuous, diffusion", "B=8, parallel", "B=16, parallel", "B=32, parallel", "B=64, parallel"):
        _change(wide, "train", label, {"validation_loss": label.partition(", ")[2]})
    with pytest.raises(
        UserError, match="validation_loss=parallel in row 'B=8, parallel' but a channel, averaged weights"
    ):
        fill(TABLES["heads"], _source(wide))
    for label in ("FSQ, parallel", "LFQ, parallel"):
        _change(wide, "train", label, {"validation_loss": "parallel"})
    fill(TABLES["heads"], _source(wide))


@pytest.mark.parametrize(
    ("field", "value"), [("device", "cuda"), ("threads", 2), ("torch", "2.8.0"), ("measured_together", 1)]
)
def test_times_of_two_machines_do_not_meet_in_one_column(wide: Path, field: str, value: object) -> None:
    _change(wide, "speed", "mixture 1024×3", {field: value}, "5")
    with pytest.raises(UserError, match=f"table 5, column speed/token_ms_1: {field}=.* but {value} in row 'mixture"):
        fill(TABLES["5"], _source(wide))


def test_a_protocol_belongs_to_a_metric(one: Path) -> None:
    """What KID alone depends on does not refuse the Fréchet distance, and refuses KID."""
    _change(one, "score", "parallel", {"kid_subset_size": 150}, "2a")
    fill(TABLES["2a"], _source(one))
    _change(one, "score", "parallel", {"prc_neighborhood": 5}, "2a")
    source = _source(one)
    rows = source.rows(TABLES["2a"])
    fd = Column("score/fd_digits", "fd_digits")
    protocol.check(TABLES["2a"], fd, rows, source)
    values = {"score/kid_digits_x1e3": 1.0, "score/precision_digits": 0.5}
    for label in ("parallel", "autoregressive"):
        edit_frame(one, label, values)
    source = _source(one)
    for key, name in (("score/kid_digits_x1e3", "kid_subset_size"), ("score/precision_digits", "prc_neighborhood")):
        with pytest.raises(UserError, match=rf"column {key}: {name}="):
            protocol.check(TABLES["2a"], Column(key, key), rows, source)


def test_lpips_by_two_files_is_refused(tmp_path: Path) -> None:
    """Of one network, which has one column."""
    folder = write_source(tmp_path / "one", tables=("1b",), examples=False)
    first, second, *_ = (row.label for row in TABLES["1b"].rows)
    key = "reconstruct/lpips_vgg"
    for label, weights in ((first, "397923af0000"), (second, "0123456789ab")):
        _change(folder, "reconstruct", label, {"lpips_weights": weights}, "1b")
        edit_frame(folder, label, {key: 0.1}, "1b")
    source = _source(folder)
    rows = source.rows(TABLES["1b"])
    with pytest.raises(UserError, match=f"column {key}: lpips_weights=397923af0000 in row .* but 0123456789ab in row"):
        protocol.check(TABLES["1b"], Column(key, "LPIPS"), rows, source)


def test_what_differs_along_an_axis_is_the_axis(one: Path) -> None:
    """Images, and what follows from their number, in a table over sample.images; nothing else of the protocol."""
    axis = replace(TABLES["2a"], varies=("head.kind", "sample.images", "sample.guidance", "sample.temperature"))
    fewer = {"images": 150, "sample.images": 150, "kid_subset_size": 150, "is_splits": 1, "fd_se": "jackknife over 3"}
    _change(one, "score", "parallel", fewer, "2a")
    edit_frame(one, "parallel", {"sample.images": 150})
    source = _source(one)
    fd = Column("score/fd_digits", "fd_digits")
    protocol.check(axis, fd, source.rows(axis), source)
    _change(one, "score", "parallel", {"reference_hash": "another"}, "2a")
    source = _source(one)
    with pytest.raises(UserError, match="reference_hash="):
        protocol.check(axis, fd, source.rows(axis), source)


@pytest.mark.parametrize(
    ("key", "field", "expected"),
    [
        ("score/fd_digits", "kid_subset_size", False),
        ("score/fd_digits", "images", True),
        ("score/fd_digits_se", "fd_se", True),
        ("score/fd_digits_floor", "floor", True),
        ("score/fd_digits", "reference_hash", True),
        ("score/agreement", "reference_hash", False),
        ("score/agreement", "features_weights", True),
        ("score/is_digits", "is_splits", True),
        ("score/kid_digits_x1e3", "is_splits", False),
        ("score/kid_digits_x1e3", "kid_subset_size", True),
        ("score/precision_digits", "prc_neighborhood", True),
        ("score/precision_digits", "kid_subsets", False),
        ("score/fd_digits", "sample.guidance", True),
        ("score/fd_digits", "dinov2.features_weights", False),
        ("score/fd_digits", "digits.features_weights", True),
        ("score/fd_digits", "digits.kid_subset_size", False),
        ("reconstruct/psnr", "features_weights", False),
        ("reconstruct/psnr", "psnr", True),
        ("reconstruct/psnr", "ssim", False),
        ("reconstruct/psnr", "autoencoder", True),
        ("reconstruct/psnr", "lpips_weights", False),
        ("reconstruct/lpips_vgg", "lpips_weights", True),
        ("reconstruct/lpips_alex_se", "lpips_weights", True),
        ("reconstruct/rfd_digits", "reference_hash", True),
        ("quantizer/mse", "scale", True),
        ("score/unheard_of", "kid_subset_size", True),
    ],
)
def test_the_fields_that_a_metric_depends_on(key: str, field: str, expected: bool) -> None:
    assert depends(key, field) is expected
