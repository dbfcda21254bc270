"""The columns of image metrics by the scorers of a report: tables are written with those of the shipped classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.paper.columns import AGREEMENT, EXTRAPOLATED
from experiments.paper.form import Column, Table
from tokenbridge.metrics import scorers
from tokenbridge.metrics.scorers import SCORERS

OWN = "digits"
SEEN_BY = {
    "inception": "torch-fidelity's Inception",
    "clean": "clean-fid's Inception and resize",
    "dinov2": "torch-fidelity's DINOv2",
}
_OURS = ("; it is not FID, which needs Inception features", "Inception-style score with the shipped digit classifier")
_THEIRS = ("", "Inception score (arXiv 1606.03498) by the shipped digit classifier")


def scorers_of(base: Mapping[str, Any]) -> tuple[str, ...]:
    """The scorers of a report's flat base settings."""
    names = base.get("score.features", OWN)
    return (names,) if isinstance(names, str) else tuple(names)


def distance(scorer: str) -> str:
    """The name of a scorer's Fréchet distance in the score stage: fd_digits, fid_tf."""
    return f"{SCORERS[scorer].distance}_{SCORERS[scorer].suffix}"


def scored(column: Column, scorer: str) -> Column | None:
    """A column of the shipped classifier as another scorer's, None where it has none; any other column as it is."""
    stage, _, metric = column.key.partition("/")
    if scorer == OWN or not (f"_{OWN}" in metric or column == AGREEMENT):
        return column
    if column == AGREEMENT or (metric.startswith("is_") and not SCORERS[scorer].classifies):
        return None
    fd = ("r" if stage == "reconstruct" else "") + distance(scorer)
    if column == EXTRAPOLATED:
        return replace(column, key=f"{stage}/{fd}_infinity", title=f"{fd}, extrapolated", meaning=_meaning(column, fd))
    name = metric.replace(f"fd_{OWN}", fd).replace(f"_{OWN}", f"_{SCORERS[scorer].suffix}")
    title = column.title.replace(f"fd_{OWN}", fd).replace(f"_{OWN}", f"_{SCORERS[scorer].suffix}")
    if title == column.title and metric.startswith(f"fd_{OWN}"):
        title = title.replace("fd", fd, 1)
    meaning = _meaning(column, fd).replace("the shipped digit classifier", SEEN_BY[scorer])
    meaning = meaning.replace("at most the number of classes", "higher where images are clear and varied")
    return replace(column, key=f"{stage}/{name}", title=title, meaning=meaning)


def cautions(column: Column, scorer: str, protocol: Mapping[str, Any]) -> list[str]:
    """What must be known of a Fréchet distance beside the protocol of its stage."""
    about = {key.removeprefix(f"{scorer}."): value for key, value in protocol.items()}
    if about.get("features") != scorer:
        return []
    what = "images" if column.key.startswith("reconstruct/") else "samples"
    counts = {what: about["images"], "reference images": about["reference_images"]}
    title = (scored(column, scorer) or column).title
    return scorers.cautions(SCORERS[scorer], title, about["features_weights"], counts)


def by_scorers(columns: Iterable[Column], scorers: Sequence[str]) -> tuple[Column, ...]:
    """Columns with each image metric once a scorer."""
    found = dict.fromkeys(each for column in columns for name in scorers if (each := scored(column, name)) is not None)
    titles = Counter(column.title for column in found)
    return tuple(c if titles[c.title] == 1 else replace(c, title=c.key.partition("/")[2]) for c in found)


def table_by(table: Table, scorers: Sequence[str]) -> Table:
    return replace(table, measured=by_scorers(table.measured, scorers))


def every(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Columns by all scorers that there are."""
    return by_scorers(columns, tuple(SCORERS))


def _meaning(column: Column, fd: str) -> str:
    found = column.meaning.replace(f"fd_{OWN}", fd)
    for ours, theirs in zip(_OURS, _THEIRS, strict=True):
        found = found.replace(ours, theirs)
    return found
