"""The sentences under a table: what ± and bold mean, how exact the numbers are, what real images would read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate, number
from analysis.tables.claims import QUANTIZED
from analysis.tables.filled import EQUAL_BINS, FilledTable
from analysis.tables.protocol import timed_on
from experiments.paper import TABLE_1A, TABLE_HEADS, TABLE_LIKELIHOOD, Column, Table
from experiments.paper.plan import point_text
from tokenbridge.metrics.catalogue import (
    BASE_IN_BINS,
    FD,
    MEMORIZATION,
    RECONSTRUCTION_AGREEMENT,
    RECONSTRUCTION_FD,
    RECONSTRUCTION_IS,
    cautions,
)

DISTANCES = {"generation": FD, "axes": FD, "reconstruction": RECONSTRUCTION_FD}
"""kind of table -> its Fréchet distance"""
BOLD = (
    "± is the half-width of the 95 % Student t interval over seeds. Bold: better than every other row, with a 95 %"
    " interval of the difference that leaves out zero, and by the verdict wherever the report has one."
)
VERDICTS = (
    "Better, worse, no difference shown: against the row marked base, over seeds, at 5 %. Fréchet distances and"
    " times are compared as ratios, shares by their logits. The spread of a row over its few seeds is drawn towards"
    " that of all rows of the report (moderated t test; paired t tests where there are fewer than 5 rows or 3"
    " seeds). Without a mark: a claim, corrected with all claims of the report by Holm's method. °: exploratory, by"
    " the false-discovery rate of all such comparisons of the report. A number of seeds behind a verdict: so many"
    " would settle it in 80 % of cases, if the true difference is the one seen. The page and the CSV give each"
    " difference to the base with the interval of the level at which it was decided: it leaves out zero exactly"
    " where a difference is shown."
)
VERDICTS_OF_IMAGES = (
    "Better, worse, no difference shown: against the row marked base, image by image over the test images, at 5 %."
    " Fréchet distances are compared as ratios (jackknife over groups of images). °: exploratory, by the"
    " false-discovery rate of all such comparisons of the report. The page and the CSV give each difference to the base"
    " with the interval of the level at which it was decided: it leaves out zero exactly where a difference is shown."
)
IMAGES = (
    "† ± is 1.96 standard errors over images (jackknife for a Fréchet distance). Rows that were measured on the same"
    " images are compared image by image; where their values are not kept, there is no verdict."
)
UNREPEATED = "An interval over images says nothing of what another training would read: such a row has one seed."
IN_EQUAL_BINS = (
    f"{EQUAL_BINS} In equal bins: of a row of levels and one of values, that of values has its density made constant"
    " within the bins of the other, so that the difference measures the models and not the bins."
)
GIVEN = (
    "Samples that other programs drew, scored as all others are; how they were drawn and what their models cost is not"
    " known here:"
)
ONE_SET = (
    "One set of samples is compared as it is, with its error over images, with the mean over the base's seeds: what"
    " another training of the model behind it would read is not known."
)
SEVERAL_SETS = (
    "Sets of samples are taken as seeds are, and pair with none: whether they are of one training or of several is not"
    " known."
)
SEARCHED = "Guidance and temperature were searched for each row by itself, on images apart from these."
ALONE = "Test images that the autoencoder alone reconstructs, without quantization, read"
PARTIAL = "Some rows alone were asked for (--row); not run for this table:"
LISTED = 4
"""most rows that a note lists one by one"""


def notes(filled: FilledTable, source: Source) -> list[str]:
    """The sentences under a table, in their order."""
    table, rows = filled.table, [(row.label, row.cells) for row in filled.rows if row.cells]
    lines = [table.note] if table.note else []
    left = [row.label for row in table.rows if row.overrides is not None and not source.cells(table.id, row.label)]
    of = TABLE_HEADS.id if table.id == TABLE_LIKELIHOOD.id else table.id
    lines += [f"{PARTIAL} {'; '.join(left)}."] if left and of in source.plan.get("partial", ()) else []
    lines += _seeds(table, {len(ids) for _, ids in rows})
    lines += _over_images(filled) + _verdicts(filled) + _given(filled, source) + _equal_bins(filled)
    if point := source.point(table):
        lines.append(f"No search: all rows at {point_text(point)}.")
    elif table.kind == "generation" and table.sampled and source.tuned and rows:
        lines.append(SEARCHED)
    cells = [id for _, ids in rows for id in ids]
    lines += [*_timing(table, cells, source), *_image_errors(table, cells, source), *_floor(table, rows, source)]
    lines += _autoencoder(table, source)
    lines += cautions_of(filled, source)
    return lines + _extrapolated(filled) + _memorized(filled, source)


def _seeds(table: Table, seeds: set[int]) -> list[str]:
    """The meaning of ± and bold here, or why there are none."""
    if table.kind == "reconstruction" and seeds == {1}:
        return ["Nothing is trained here and every draw is fixed: no interval over seeds."]
    if seeds == {1}:
        what = "One measurement per row" if table.kind == "speed" else "One seed per row"
        return [f"{what}: no interval over seeds, so no value is marked best."]
    return [BOLD] if seeds else []


def _over_images(filled: FilledTable) -> list[str]:
    if not any(entry.over == "images" for row in filled.rows for entry in row.measured):
        return []
    return [IMAGES] if filled.kind == "reconstruction" else [IMAGES, UNREPEATED]


def _verdicts(filled: FilledTable) -> list[str]:
    tests = sum(entry.comparison is not None for row in filled.rows for entry in row.measured)
    if tests:
        return [
            VERDICTS_OF_IMAGES if filled.kind == "reconstruction" else VERDICTS,
            f"Base: {filled.table.base_label}; {tests} verdict{'' if tests == 1 else 's'}{_claims(filled)}.",
        ]
    base = next((row for row in filled.rows if row.label == filled.table.base_label), None)
    ran = sum(bool(row.cells) for row in filled.rows)
    missing = base is not None and not base.cells and ran > 1
    return [f"No verdicts: the base row, {filled.table.base_label}, has not run."] if missing else []


def _given(filled: FilledTable, source: Source) -> list[str]:
    """What rows of samples of other programs are, and what their verdicts do not know."""
    rows = [row for row in filled.rows if row.label in source.given]
    if not rows or filled.kind not in DISTANCES:
        return []
    sets = ", ".join(f"{row.label} ({len(row.cells)} set{'' if len(row.cells) == 1 else 's'})" for row in rows)
    lines = [f"{GIVEN} {sets}."]
    tested = any(entry.comparison for row in rows if len(row.cells) == 1 for entry in row.measured)
    lines += [ONE_SET] if tested else []
    lines += [SEVERAL_SETS] if any(len(row.cells) > 1 for row in rows) else []
    return lines


def _claims(filled: FilledTable) -> str:
    claims = sum(e.comparison is not None and not e.explored for row in filled.rows for e in row.measured)
    return f", {claims} of them on claims" if claims else ", all exploratory"


def _equal_bins(filled: FilledTable) -> list[str]:
    """What a verdict in equal bins compares, with the numbers that no column has."""
    entries = [entry for row in filled.rows for entry in row.measured]
    told = dict.fromkeys(entry.binned for entry in entries if entry.binned and entry.comparison)
    if not told:
        return []
    shown = any(column.key == BASE_IN_BINS.key for column in filled.measured)
    return [IN_EQUAL_BINS if shown else f"{IN_EQUAL_BINS} {'; '.join(told)}."]


def _timing(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """Where times were measured (the protocol holds a column to one machine), and how much the rounds differ."""
    columns = [column for column in table.measured if column.key.startswith("speed/")]
    machine = next((text for cell in cells if (text := timed_on(source, cell))), "")
    if not columns or not machine:
        return []
    spreads = [(column, _values(source, cells, f"{column.key}_spread")) for column in columns]
    told = [f"{column.title} {number(max(v), column.decimals)} {column.unit}" for column, v in spreads if v]
    rounds = f" Half the interquartile range of the rounds, at most: {', '.join(told)}." if told else ""
    once = next((text for cell in cells if (text := source.protocol(cell, "speed").get("timed_once"))), "")
    if once and any(0 < len(v) < len(_values(source, cells, column.key)) for column, v in spreads):
        rounds += f" Timed once: {once}."
    return [f"Times: {machine}.{rounds}"]


def _image_errors(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """The largest error over images that the stages tell of, which one seed has too."""
    errors = []
    for column in (column for column in table.measured if not column.key.startswith("speed/")):
        if values := _values(source, cells, f"{column.key}_se"):
            errors.append(f"{column.title} {number(max(values) * column.scale, column.decimals)}")
    return [f"Standard error over images, at most: {', '.join(errors)}."] if errors else []


def _floor(table: Table, rows: Sequence[tuple[str, Sequence[str]]], source: Source) -> list[str]:
    """The distance of real images to the same reference: nothing can be expected to do better."""
    fd = _distance(table, source)
    if fd is None:
        return []
    key = fd.key
    cells = [id for _, ids in rows for id in ids]
    floor, images = _values(source, cells, f"{key}_floor"), _values(source, cells, f"{key}_floor_images")
    if not floor:
        return []
    which = f"{images[0]:.0f} real images" if images else "the original images"
    note = f"Floor: {which} read {fd.title} {number(floor[0], RECONSTRUCTION_FD.decimals)} against the reference"
    measured = [(label, _values(source, ids, f"{key}_at_floor_images")) for label, ids in rows]
    if not any(values for _, values in measured):
        return [f"{note}."]
    read = _listed(fd, [(label, stats.estimate(v)) for label, v in measured if v])
    return [f"{note}; as many generated ones read {read} (fewer images read higher)."]


def _autoencoder(table: Table, source: Source) -> list[str]:
    """What reconstructions of real test images read by the scores of a table of generated ones.

    That much the autoencoder costs by itself; a classifier that agrees with generated images more often sees typical
    images, not better ones.
    """
    if table.kind != "generation" or _distance(table, source) is None:
        return []
    row = source.cells(TABLE_1A.id, QUANTIZED[1])
    told = []
    for column in (RECONSTRUCTION_FD, RECONSTRUCTION_IS, RECONSTRUCTION_AGREEMENT):
        of = column.by(source.scorers[0])
        if of is not None and (values := _values(source, row, of.key)):
            told.append(f"{of.title} {number(values[0] * of.scale, of.decimals)}{f' {of.unit}' if of.unit else ''}")
    if not told:
        return []
    return [f"{ALONE} {', '.join(told)}."]


def _distance(table: Table, source: Source) -> Column | None:
    """The Fréchet distance of a table by the report's first scorer; None where no column has it."""
    of = DISTANCES.get(table.kind)
    return next((column for column in table.measured if of and column.key == source.by_scorer(of).key), None)


def cautions_of(filled: FilledTable, source: Source) -> list[str]:
    """The reasons why a Fréchet distance compares with few others: too few images, other weights."""
    if _distance(filled.table, source) is None:
        return []
    column, cells = DISTANCES[filled.kind], [cell for row in filled.rows for cell in row.cells]
    protocols = [source.protocol(cell, column.key.partition("/")[0]) for cell in cells]
    lines = [line for each in protocols for name in source.scorers for line in cautions(column, name, each)]
    return [f"{line}." for line in dict.fromkeys(lines)]


def _extrapolated(filled: FilledTable) -> list[str]:
    """The Fréchet distance without the bias that a finite number of images gives it."""
    for column in filled.further:
        name, comma, _ = column.title.partition(", extrapolated")
        if comma and (values := _estimates(filled, column)):
            return [
                f"Extrapolated to infinitely many generated images (FD∞ + a/N, arXiv 1911.07023), {name} reads"
                f" {_listed(column, values)}."
            ]
    return []


def _memorized(filled: FilledTable, source: Source) -> list[str]:
    """Whether generated images lie nearer to training images than chance has it, in one line for all rows."""
    column = source.by_scorer(MEMORIZATION)
    values = _estimates(filled, column)
    if not values:
        return []
    away = sum(stats.gap(value, _zero(value)).settled for _, value in values)
    about = "" if column.key in {each.key for each in filled.measured} else f" ({column.meaning})"
    return [
        f"Memorized, in %{about}: {_listed(column, values)}. The interval leaves out 0 in {away} of {len(values)} rows."
    ]


def _zero(value: Estimate) -> Estimate:
    """Zero without an error, measured as often."""
    error = None if value.error is None else 0.0
    return replace(value, mean=0.0, values=(0.0,) * value.seeds, error=error, left_out=(), least=0.0)


def _estimates(filled: FilledTable, column: Column) -> list[tuple[str, Estimate]]:
    """The numbers of a column or one beside them, by the rows' labels."""
    keys = [each.key for each in (*filled.measured, *filled.further)]
    if column.key not in keys:
        return []
    entries = [(row.label, (*row.measured, *row.further)[keys.index(column.key)]) for row in filled.rows]
    return [(label, entry.estimate) for label, entry in entries if entry.estimate is not None]


def _listed(column: Column, values: Sequence[tuple[str, Estimate]]) -> str:
    """The number of each row, or the lowest and the highest where there are many rows."""
    if len(values) <= LISTED:
        return ", ".join(f"{label} {_text(column, value)}" for label, value in values)
    low, *_, high = sorted(values, key=lambda row: row[1].mean)
    return f"from {_text(column, low[1])} ({low[0]}) to {_text(column, high[1])} ({high[0]})"


def _text(column: Column, value: Estimate) -> str:
    half = "" if value.half is None else f" ± {number(value.half, column.decimals)}"
    return number(value.mean, column.decimals) + half


def _values(source: Source, cells: Sequence[str], column: str) -> list[float]:
    return [value for cell in cells if (value := source.number(cell, column)) is not None]
