"""Seeds added until claims are settled: how many at each look. analysis.stats.multiple has what looking again costs."""

from __future__ import annotations

from experiments import paper
from experiments.grid.request import SEEDS, Request
from tokenbridge.config import UserError


def growing(request: Request, most: int, on: str = "local") -> Request:
    """The request with its looks, whose searches use the seeds of the first.

    Args:
        request: of tables with claims.
        most: training seeds of the last look.
        on: where it runs.

    Raises:
        UserError: tables without claims, rows of them, axes, fewer seeds than a test needs, or another machine.
    """
    first = request.seeds or SEEDS
    claiming = [id for id, table in paper.TABLES.items() if table.claims]
    if not any(id in claiming for id in request.tables) or request.axes:
        raise UserError(f"--until-settled is for tables with claims ({', '.join(claiming)}); ask for one of them")
    if request.rows:
        raise UserError(f"--row={request.rows[0]} leaves out rows of claims; with --until-settled ask for whole tables")
    if on == "slurm":
        raise UserError("--until-settled looks between rounds of seeds on this machine; on a cluster, give --seeds")
    if not 2 <= first <= most:
        raise UserError(f"--seeds={first} of the first look must be from 2 to --max-seeds={most}")
    return request.model_copy(update={"seeds": first, "search_seeds": first, "looks": looks(first, most)})


def looks(first: int, most: int) -> tuple[int, ...]:
    """Seeds at each look: the first, as many more at a time, and the most."""
    return (*range(first, most, first), most)
