"""Whether the numbers of a column were made in the same way: a column holds one protocol.

A protocol belongs to a metric: fields that the metric does not depend on (metrics.catalogue.depends) may differ. Any
other may differ between two rows only where it follows from a setting that the table varies (or that was searched for
each row) and that differs between these rows: what differs along an axis on purpose is the axis, as the number of
images is of a grid over sample.images. So the scale of the latents, which all post-training quantizers share, may be
another one with a tokenizer that trained an autoencoder of its own, and only there. How samples of other programs were
drawn nobody here knows: what would say it may differ there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from analysis.frame.source import GIVEN, Source
from experiments.paper import Column, Row, Table
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import depends, unqualified

REPLICATES = {"seed", "sample.seed"}
"""protocol fields that tell the repetitions of one row apart"""
_IMAGES = ("data.", "sample.images")
_REFERENCE = ("data.", "score.reference")
_LATENTS = ("data.", "autoencoder.", "latents.", "quantizer.kind", "quantizer.epochs", "quantizer.seed")
FOLLOWS: dict[str, tuple[str, ...]] = {
    "scale": _LATENTS,
    "autoencoder": ("data.", "autoencoder.", "quantizer.kind", "quantizer.epochs", "quantizer.seed"),
    "levels": ("quantizer.kind",),
    "validation_loss": ("head.kind",),
    "validation_images": ("data.",),
    "images": _IMAGES,
    "is_splits": _IMAGES,
    "fd_se": _IMAGES,
    "kid_subset_size": (*_IMAGES, "score.reference"),
    "reference_images": _REFERENCE,
    "reference_hash": _REFERENCE,
    "reference_weights": _REFERENCE,
    "prc_reference_images": _REFERENCE,
    "floor": ("score.reference",),
    "memorized_train_images": _REFERENCE,
    "features_weights": ("score.weights", "score.features"),
    "features_code": ("score.weights", "score.features"),
    "lpips_weights": ("score.lpips",),
    "resize": ("score.features",),
}
"""field -> the settings (or sections) that it follows from, beside the setting of its own name"""
COLUMNS = {"quantizer.kind": {"scale": "stage.tokenizer", "autoencoder": "stage.tokenizer"}}
"""setting -> field -> the column of the frame that tells instead how the field follows from it"""


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
    varied = (*table.varies, *source.tuned_in(table))

    def because(field: str) -> list[tuple[str, ...]]:
        columns = reasons(field, varied)
        return [tuple(source.text(id, column) for column in columns) for _, id in cells]

    found = parted(column.key, [(label, source.protocol(id, kind)) for label, id in cells], because)
    if found:
        field, (first, there), (second, here) = found
        raise UserError(
            f"table {table.id}, column {column.key}: {field}={there} in row {first!r} but {here} in row"
            f" {second!r}; one column holds one protocol: {remedy.format(field=field)}"
        )


Labelled = tuple[str, Any]
"""a row and its value of a field"""


def parted(
    key: str,
    protocols: Sequence[tuple[str, Mapping[str, Any]]],
    because: Callable[[str], Sequence[tuple[str, ...]]],
) -> tuple[str, Labelled, Labelled] | None:
    """The first field by which numbers of a metric are of two protocols, with row and value of each; None: of one.

    Args:
        key: the metric's.
        protocols: row and protocol of each number.
        because: of a field, what it follows from of each number: where that differs, the field may.
    """
    for field in sorted(_differing(protocol for _, protocol in protocols) - REPLICATES):
        if not depends(key, field):
            continue
        seen: dict[tuple[str, ...], Labelled] = {}
        for (label, protocol), reason in zip(protocols, because(field), strict=True):
            here = protocol.get(field, "absent")
            first = seen.setdefault(reason, (label, here))
            if here != first[1]:
                return field, first, (label, here)
    return None


def _differing(protocols: Iterable[Mapping[str, Any]]) -> set[str]:
    """The fields that two protocols have different values of, or that only one of them has."""
    each = list({id(protocol): protocol for protocol in protocols}.values())  # cells share the object of the same text
    fields = {field for protocol in each for field in protocol}
    return {field for field in fields if any(p.get(field, "absent") != each[0].get(field, "absent") for p in each)}


def timed_on(source: Source, cell: str) -> str:
    """Processor or GPU, threads and torch of the times of a cell; empty where it has none."""
    protocol = source.protocol(cell, "speed")
    if not protocol:
        return ""
    device, threads = protocol["device"], protocol.get("threads")
    parts = [str(protocol.get("processor", device) if device == "cpu" else device)]
    parts += [f"{threads} thread{'' if threads == 1 else 's'}"] if threads and device == "cpu" else []
    return ", ".join(parts + ([f"torch {protocol['torch']}"] if protocol.get("torch") else []))


def reasons(field: str, varied: Sequence[str]) -> list[str]:
    """Columns of the frame that a field follows from, among the settings that may differ."""
    name = unqualified(field)
    found = [key for key in varied if name in _names(key)]
    follows = [key for key in varied if key.startswith(FOLLOWS.get(name, ()))]
    found += [GIVEN] * name.startswith("sample.")  # how another program drew its samples nobody here knows
    return [*found, *(COLUMNS.get(key, {}).get(name, key) for key in follows)]


def _names(key: str) -> set[str]:
    """What protocols call a setting: head.kind is also `kind`, `head` and, in what was sampled from, `sample.head`."""
    short = {key, key.rpartition(".")[2], key.removesuffix(".kind")}
    return short | {f"sample.{name}" for name in short}
