"""The paper's tables: published numbers as printed, and cells that the configuration takes."""

from __future__ import annotations

import math

import pytest

from analysis.frame.source import read
from analysis.report.build import render
from analysis.tables.fill import fill
from experiments.cli.grid import choices
from experiments.grid.request import Request
from experiments.paper import PAPER, TABLES, Row, Table, table
from experiments.presets import preset
from tests.helpers.report_source import write_source
from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.catalogue import AGREEMENT, FD
from tokenbridge.overrides import override, settings

# typed from arXiv 2503.16430 apart from experiments/paper: label, then the columns in their order
PRINTED = {
    "1a": ["continuous 1.11 306.1", "B=4", "B=8 3.69 250.3", "B=16 1.33 296.8", "B=32 1.12 303.8", "B=64 1.11 305.4"],
    "1b": ["continuous 1.11 306.1", "±2 2.26 267.9", "±3 1.22 299.7", "±4 1.13 305.3", "±5 1.11 305.4"],
    "2a": ["parallel 15.7 158.5", "autoregressive 1.94 306.1"],
    "2b": ["as stored 1.94 306.1", "frequency 1.89 307.3"],
    "2c": ["B=16 2.03 295.0", "B=32 1.98 298.4", "B=64 1.94 306.1"],
    "2d": ["1 channel 16 60 2.28 289.1", "2 channels 256 63 2.45 291.2", "4 channels 65536 530 3.24 282.9"],
    "2e": [
        "256×3 3 2.88 277.3",
        "512×3 10 16.3 2.72 284.8",
        "512×4 13 21.0 2.65 295.5",
        "1024×4 65 80.8 2.03 305.0",
        "1024×6 94 118.6 1.94 306.1",
    ],
    "3": [
        "MaskGIT 177 6.18 182.1",
        "RQTran 3800 7.55 134.0",
        "ViT-VQGAN 1700 4.17 175.1",
        "TiTok-128 287 1.97 281.8",
        "MAGVIT-v2 307 1.78 319.4",
        "Open-MAGVIT2-L 804 2.51 271.7 0.84 0.54",
        "LlamaGen 3100 2.18 263.3 0.81 0.58",
        "VAR 2000 1.73 350.2 0.82 0.60",
        "LDM-4 400 3.60 247.7 0.87 0.48",
        "U-ViT-H/2-G 501 2.29 263.9 0.82 0.57",
        "DiT-XL/2 675 2.27 278.2 0.83 0.57",
        "MDTv2-XL/2 676 1.58 314.7 0.79 0.65",
        "GIVT 304 3.35 0.84 0.53",
        "FlowAR-H 1900 1.65 296.5 0.83 0.60",
        "MAR-L 479 1.78 296.0 0.81 0.60",
        "MAR-H 943 1.55 303.7 0.81 0.62",
        "TokenBridge-L 486 1.76 294.8 0.80 0.63",
        "TokenBridge-H 910 1.55 313.3 0.80 0.65",
    ],
    "5": [
        "diffusion 1280×8 311.25 1.85",
        "diffusion 1024×3",
        "flow 1280×8",
        "mixture 1024×3",
        "autoregressive 1024×4 52.42 0.57",
        "parallel 1024×4",
    ],
}
RUNNABLE = [(each, cell) for each in TABLES.values() for cell in each.rows if cell.overrides is not None]


@pytest.mark.parametrize("id", PRINTED)
def test_published_numbers_are_those_printed(id: str) -> None:
    for cell, line in zip(TABLES[id].rows, PRINTED[id], strict=True):
        numbers = [cell.published[column.key] for column in TABLES[id].published if column.key in cell.published]
        words = line.removeprefix(cell.label).split()
        assert line.startswith(cell.label)
        assert numbers == [float(word) for word in words], cell.label


def test_givt_has_no_inception_score_and_its_precision_is_not_taken_for_one() -> None:
    assert TABLES["3"].row("GIVT").published == {"params": 304, "fid": 3.35, "precision": 0.84, "recall": 0.53}


@pytest.mark.parametrize(("table", "cell"), RUNNABLE, ids=[f"{t.id}-{c.label}" for t, c in RUNNABLE])
def test_overrides_are_settings_of_a_config(table: Table, cell) -> None:
    base = preset("digits" if "train.epochs" in table.rounded else "imagenet256-L")
    config = override(base, cell.overrides)
    assert {key: settings(config)[key] for key in cell.overrides} == dict(cell.overrides)


@pytest.mark.parametrize("id", ["1a", "1b", "2a", "2b", "2c", "2d", "2e", "5", "heads", "compute", "autoencoders"])
def test_rows_differ_in_what_the_table_varies_and_in_nothing_else(id: str) -> None:
    table, base = TABLES[id], override(preset("digits"), {"quantizer.levels": 64})
    configs = [settings(override(base, table.overrides(cell, base))) for cell in table.rows]
    differing = {key for key in configs[0] if len({str(config[key]) for config in configs}) > 1}
    assert differing == set(table.varies) - set(table.seeded)


def test_a_row_without_overrides_says_why() -> None:
    for each in TABLES.values():
        for cell in each.rows:
            assert cell.overrides is not None or cell.reason
            assert cell.published or cell.reason


def test_the_tables_of_a_large_model_are_the_presets() -> None:
    for size in "LH":
        keys = TABLES["3"].row(f"TokenBridge-{size}").overrides
        given = settings(preset(f"imagenet256-{size}"))
        assert keys is not None
        assert {key: given[key] for key in keys} == dict(keys)


def test_an_unknown_table_and_an_unknown_row_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match="table '9z' is none of ours; choose one of 1a, 1b, 2a"):
        table("9z")
    with pytest.raises(UserError, match="'B=7' is no row of table 1a; its rows are continuous, B=4"):
        TABLES["1a"].row("B=7")


def test_heads_that_need_a_lower_learning_rate_keep_its_ratio_to_the_base() -> None:
    table, base = TABLES["heads"], override(preset("digits"), {"train.learning_rate": 1e-3})
    rates = {cell.label: table.overrides(cell, base).get("train.learning_rate") for cell in table.rows}
    assert {label for label, rate in rates.items() if rate is not None} == {
        "continuous, diffusion",
        "continuous, flow",
        "continuous, mixture",
        "continuous, mixture, full covariance",
    }
    assert rates["continuous, diffusion"] == pytest.approx(5e-4, rel=1e-12)
    assert rates["continuous, mixture, full covariance"] == pytest.approx(2.5e-4, rel=1e-12)


def test_a_scaled_setting_keeps_its_ratio_to_the_base() -> None:
    table = TABLES["2e"]
    widths = {
        name: [table.overrides(cell, preset(name))["head.width"] for cell in table.rows]
        for name in ("digits", "imagenet256-L")
    }
    assert widths == {"digits": [16, 32, 32, 64, 64], "imagenet256-L": [256, 512, 512, 1024, 1024]}
    odd = override(preset("digits"), {"head.width": 36, "head.heads": 2})
    assert table.overrides(table.rows[0], odd)["head.width"] == 9
    narrow = override(preset("digits"), {"head.width": 6, "head.heads": 2})
    with pytest.raises(UserError, match=r"row 256×3: head.width=6 of the base scales 256 to 1.5, which must be"):
        table.overrides(table.rows[0], narrow)


def test_our_own_table_is_none_of_the_paper_s() -> None:
    own = [each for each in TABLES.values() if each.own]
    assert [each.id for each in own] == ["heads", "compute", "autoencoders"]
    assert own[0] not in PAPER
    assert (own[0].name, TABLES["2a"].name) == ("Every head on every token", "Table 2a")
    assert not any(cell.published for cell in own[0].rows)


def test_a_table_takes_one_declaration(tmp_path, monkeypatch, no_figures):
    """Declared, it can be run, is named in the help and in the message of a wrong name, is filled and reported."""
    rows = tuple(Row(f"depth {depth}", {"head.depth": depth}, {}, "not in the paper") for depth in (1, 2))
    toy = Table("toy", "Depth of a toy", "generation", ("head.depth",), rows, (), (FD, AGREEMENT))
    monkeypatch.setitem(TABLES, "toy", toy)
    cells = [row.cell.config.head.depth for row in Request(name="x", tables=("toy",), seeds=2).grid().rows]
    assert cells == [1, 1, 2, 2]
    assert ", toy, " in choices()
    with pytest.raises(UserError, match=r"choose one of .*, toy"):
        table("9z")
    source = read(write_source(tmp_path / "x", seeds=2, tables=("toy",), examples=False) / "source")
    (filled,) = (fill(each, source) for each in source.tables)
    assert [column.title for column in filled.measured] == ["fd_digits", "agreement"]
    assert all(entry.text for row in filled.rows for entry in row.measured)
    page = render(source)["index.html"].decode()
    assert "Depth of a toy" in page
    assert "depth 2" in page


def test_every_head_can_predict_its_token() -> None:
    table, base = TABLES["heads"], preset("digits")
    configs = {cell.label: override(base, table.overrides(cell, base)) for cell in table.rows}
    for config in configs.values():
        config.require_pair()
    tokens = {label.partition(", ")[0]: math.prod(config.token_levels) for label, config in configs.items()}
    assert tokens["VQ"] == tokens["LFQ"] == 1024
    assert tokens["FSQ"] == 1000
    assert tokens["B=16"] == 16**8


def test_the_defaults_hold_the_paper_s_training_settings() -> None:
    defaults = {key: None for key in settings(RunConfig)} | settings(preset("imagenet256-L"))
    for cell in TABLES["4"].rows:
        for key, value in (cell.overrides or {}).items():
            assert defaults[key] == value, key


def test_rows_of_equal_compute_take_the_operations_of_the_diffusion_head():
    """Counted on the models of the preset; an epoch more or less is 3 to 9 %."""
    from experiments.paper.own import TABLE_COMPUTE
    from tokenbridge.model.costs import training_step_flops

    def operations(label):
        config = override(preset("digits"), TABLE_COMPUTE.overrides(TABLE_COMPUTE.row(label), preset("digits")))
        return training_step_flops(config) * config.train.epochs

    wanted = operations("continuous, diffusion")
    for row in TABLE_COMPUTE.rows:
        assert operations(row.label) / wanted == pytest.approx(1, abs=0.05), row.label


def test_epochs_keep_their_ratio_to_those_of_the_base():
    from experiments.paper.own import TABLE_COMPUTE

    for epochs, wanted in ((1, {1, 2}), (200, {110, 130, 200, 300, 310})):
        base = override(preset("digits"), {"train.epochs": epochs, "train.warmup_epochs": 0})
        found = {TABLE_COMPUTE.overrides(row, base)["train.epochs"] for row in TABLE_COMPUTE.rows}
        assert found == wanted
