"""Whether the numbers of a column were made in the same way: a column holds one protocol.

A field of a protocol may differ between two rows only where it follows from a setting that the table varies (or that
was searched for each row) and that differs between these rows. So the scale of the latents, which all post-training
quantizers share, may be another one with a tokenizer that trained an autoencoder of its own, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.frame.source import Source
from experiments.paper import Column, Row, Table
from tokenbridge.config import UserError

REPLICATES = {"seed", "sample.seed"}
"""protocol fields that tell the repetitions of one row apart"""
FOLLOWS = {
    "scale": ("quantizer.kind", "stage.tokenizer"),
    "autoencoder": ("quantizer.kind", "stage.tokenizer"),
    "levels": ("quantizer.kind", "quantizer.kind"),
    "held_out_loss": ("head.kind", "head.kind"),
}
"""field -> the setting that a table must vary for it to differ, and the column of the frame that it follows from"""


def check(
    table: Table,
    column: Column,
    rows: Sequence[tuple[Row, Sequence[str]]],
    source: Source,
    remedy: str = "run both rows with the same {field}",
) -> None:
    """Refuse a column whose numbers were not made in the same way.

    Args:
        table: the settings that it varies may explain a difference.
        column: its key tells the kind of stage whose protocol counts.
        rows: the table's rows with the ids of their cells.
        source: the report's source.
        remedy: ends the message; `{field}` in it stands for the field that differs.

    Raises:
        UserError: names field, rows and values.
    """
    kind = column.key.partition("/")[0]
    cells = [(cell.label, id) for cell, ids in rows for id in ids if source.number(id, column.key) is not None]
    protocols = {id: source.protocol(id, kind) for _, id in cells}
    varied = (*table.varies, *source.tuned_in(table))
    for field in sorted({field for protocol in protocols.values() for field in protocol} - REPLICATES):
        reasons = _reasons(field, varied)
        seen: dict[tuple[str, ...], tuple[str, Any]] = {}
        for label, id in cells:
            because = tuple(source.text(id, reason) for reason in reasons)
            here = protocols[id].get(field, "absent")
            first, there = seen.setdefault(because, (label, here))
            if here != there:
                raise UserError(
                    f"table {table.id}, column {column.key}: {field}={there} in row {first!r} but {here} in row"
                    f" {label!r}; one column holds one protocol: {remedy.format(field=field)}"
                )


def timed_on(source: Source, cell: str) -> str:
    """Processor or GPU, threads and torch of the times of a cell; empty where it has none."""
    protocol = source.protocol(cell, "speed")
    if not protocol:
        return ""
    device, threads = protocol["device"], protocol.get("threads")
    parts = [str(protocol.get("processor", device) if device == "cpu" else device)]
    parts += [f"{threads} thread{'' if threads == 1 else 's'}"] if threads and device == "cpu" else []
    return ", ".join(parts + ([f"torch {protocol['torch']}"] if protocol.get("torch") else []))


def _reasons(field: str, varied: Sequence[str]) -> list[str]:
    """Columns of the frame that a field follows from, among the settings that may differ."""
    found = [key for key in varied if field in _names(key)]
    setting, column = FOLLOWS.get(field, ("", ""))
    return [*found, column] if setting in varied else found


def _names(key: str) -> set[str]:
    """What protocols call a setting: head.kind is also `kind`, `head` and, in what was sampled from, `sample.head`."""
    short = {key, key.rpartition(".")[2], key.removesuffix(".kind")}
    return short | {f"sample.{name}" for name in short}
