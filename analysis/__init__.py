"""What the runs say: frame, tables, figures, verdicts, report. Never imports torch.

The rooms build on one another in one order: frame ← tables ← figures and verdicts ← report. `stats` stands below all.

In a notebook, `runs` gives the frame of all runs and `plot` a chart of any frame.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.figures.chart import plot as plot
    from analysis.frame.load import describe as describe
    from analysis.frame.load import runs as runs

FACE = {"runs": "frame.load", "describe": "frame.load", "plot": "figures.chart"}
"""function -> its module, which is imported when it is first asked for: it takes pandas or matplotlib"""
__all__ = ["describe", "plot", "runs"]


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FACE[name]}"), name)
