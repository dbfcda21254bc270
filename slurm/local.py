"""Grids that run on this machine: they leave no record of their own, but their cells name them."""

from __future__ import annotations

from experiments.paper import plan
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import CellStages, Sweep, cell_file, is_sweep, read_cells


def sweeps(store: Store) -> list[Sweep]:
    """All of them, the one that ran last at the end; of a name that was submitted to Slurm as well, that sweep counts.

    Raises:
        UserError: the record of a cell is damaged.
    """
    cells: dict[str, dict[str, CellStages]] = {}
    begun: dict[str, float] = {}
    for id, cell in read_cells(store).items():
        for name in cell.sweeps:
            cells.setdefault(name, {})[id] = CellStages(cell.name, cell.stages)
            begun[name] = max(begun.get(name, 0.0), cell_file(store, id).stat().st_mtime)
    here = [name for name in sorted(cells, key=lambda name: begun[name]) if not is_sweep(store, name)]
    return [_sweep(store, name, cells[name], begun[name]) for name in here]


def find(store: Store, name: str) -> Sweep | None:
    """The grid of a name, None where there is none."""
    return next((sweep for sweep in sweeps(store) if sweep.name == name), None)


def _sweep(store: Store, name: str, cells: dict[str, CellStages], begun: float) -> Sweep:
    done = plan.file(store.root, name).exists()
    return Sweep(name, {}, cells, cluster="", code="", command="", submitted=begun, done=done)
