"""Where the packages beside this one are: experiments, analysis and slurm, names that a user's own folders have too."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")
ROOT = Path(__file__).parents[1]
"""the folder that they lie in: a checkout, site-packages, or the copy of the code that jobs run"""


def ours_first() -> None:
    """Let imports of these names find ours, where the working folder or PYTHONPATH has packages of the same names.

    Raises:
        UserError: another package of such a name is imported already, as in a notebook that uses its own.
    """
    for name in PACKAGES[1:]:
        module = sys.modules.get(name)
        spec = module.__spec__ if module else PathFinder.find_spec(name)
        there = Path(spec.origin).parent if spec and spec.origin else None
        if there is not None and there.resolve() == (ROOT / name).resolve():
            continue
        if module:
            from tokenbridge.config import UserError  # which imports pydantic, too long for the start of a command

            raise UserError(
                f"{name} is imported already from {there}, which is not TokenBridge's; import tokenbridge's first, or"
                " rename that folder"
            )
        sys.path.insert(0, str(ROOT))


def environment_of_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `python -m` runs our packages, and none of the working folder.

    Args:
        environment: what else is in it.
    """
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
