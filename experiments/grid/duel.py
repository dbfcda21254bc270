"""Which rows a duel is of: named, or the best of some tokens by searches that are finished."""

from __future__ import annotations

from experiments import paper
from experiments.grid.request import table_rows
from experiments.grid.search import RowSearch, best, search_images
from experiments.paper.plan import ranked
from experiments.pipeline import Cell
from tokenbridge.config import RunConfig, UserError
from tokenbridge.store.artifacts import Store

TOKENS = ("post-training", "trained", "continuous")
"""groups of rows by what their tokens are"""


def row_key(store: Store, base: RunConfig, word: str, seeds: int) -> str:
    """The key of a row, "TABLE LABEL", that a word names as TABLE:LABEL, or as TABLE:TOKENS the best of these.

    Args:
        store: the runs folder, whose finished searches tell which row of some tokens is best.
        base: the configuration that rows change.
        word: as typed.
        seeds: training seeds of the searches.

    Raises:
        UserError: it names no row, or searches are not finished.
    """
    id, colon, label = word.partition(":")
    if not colon:
        raise UserError(f"{word!r} must be TABLE:ROW, such as 'heads:continuous, flow' or heads:continuous")
    if label not in TOKENS:
        return f"{id} {paper.table(id).row(label).label}"
    rows: dict[str, list[Cell]] = {}
    for row in table_rows(id, base, seeds):
        if row.sampled and tokens_of(row.cell.config) == label:
            rows.setdefault(row.label, []).append(row.cell)
    if not rows:
        raise UserError(f"table {id} has no row of {label} tokens; name a row of it")
    values = dict[str, float]()
    for name, cells in rows.items():
        points = RowSearch(tuple(cells), search_images(seeds)).points(store)
        if not all(point.scored(store) for point in points):
            raise UserError(
                f"{word} is the best of {len(rows)} rows by their searches, and that of {name} is not finished in"
                f" {store.root}; run first: tokenbridge grid {id} --seeds {seeds}, with the same preset and settings"
            )
        chosen = best(store, points)
        values[name] = next(point.metric(store) for point in points if dict(point.values) == chosen)
    return f"{id} {list(values)[ranked(list(values.values()), 'lower')[0]]}"


def tokens_of(config: RunConfig) -> str:
    """The tokens that a configuration predicts: one of TOKENS."""
    kind = config.quantizer.kind
    return "continuous" if kind == "identity" else "trained" if config.quantizer.trained else "post-training"
