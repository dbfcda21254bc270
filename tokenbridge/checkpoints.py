"""Checkpoints of trainings: a copy of the state, which a thread writes while the training goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import CHECKPOINT, PARTIAL, atomic, require_read

SHARE = 0.03
"""of a training's time that checkpoints may take, though most of it goes on beside the training"""
SHORTEST, LONGEST = 60.0, 900.0
"""seconds between two checkpoints"""

Of = str | Mapping[str, Any]
"""what a checkpoint belongs to: the id of a stage, or settings by name"""


class Training(Protocol):
    """What is kept in checkpoints."""

    def state(self, of: Of) -> dict[str, Any]:
        """A copy, in the processor's memory, of all that it goes on from; its key `of` is what it belongs to."""
        ...

    def load(self, path: Path, of: Of) -> None:
        """Go on from a checkpoint. UserError where it is damaged, or belongs to another training."""
        ...


class Checkpoints:
    """The checkpoint of a training: the state is copied at a step, a thread writes the copy.

    After a signal and after the last step it is written at once. A kill leaves the last one that was whole.

    Args:
        path: of the file.
        of: what it belongs to.
        seconds: from one checkpoint to the next; None: as many as make copying and writing SHARE of the time, within
            SHORTEST and LONGEST.
    """

    def __init__(self, path: Path, of: Of, seconds: float | None):
        self.path, self.of = path, of
        self.given, self.seconds = seconds is not None, SHORTEST if seconds is None else seconds
        self.saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    @classmethod
    def of_stage(cls, out: Path, seconds: float | None) -> Self:
        """Those of the stage that writes the folder `out`."""
        return cls(out / CHECKPOINT, out.name.removesuffix(PARTIAL), seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # else that error says why the training ends
                raise

    def save(self, training: Training, urgent: bool) -> None:
        """Begin to write where it is time, or write at once. What failed in writing the one before is raised here."""
        if self._writing and self._writing.done():
            self.wait()
        if not (urgent or self._due()):
            return
        self.wait()
        self._writing = self._thread.submit(self._write, training.state(self.of), time.monotonic())
        if urgent:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written. Raises what failed."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _due(self) -> bool:
        free = self.given or not self._writing  # without an interval, a slow disk delays the next one, not the training
        return free and time.monotonic() - self.saved >= self.seconds

    def _write(self, state: dict[str, Any], began: float) -> None:
        write_checkpoint(self.path, state)
        self.saved = time.monotonic()
        if not self.given:
            self.seconds = min(max((self.saved - began) / SHARE, SHORTEST), LONGEST)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training's state to a file, which appears whole."""
    with atomic(path) as file:
        torch.save(state, file)


def read_checkpoint(path: Path, of: Of, device: torch.device) -> dict[str, Any]:
    """The state in a checkpoint.

    Args:
        path: the file.
        of: what it must belong to.
        device: where its tensors go.

    Raises:
        UserError: it is damaged, or belongs to another training.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        require_read(path, error)
        first = str(error).splitlines()[0]
        raise UserError(f"{path} is no whole checkpoint ({first}); delete it to train from the start") from error
    if (theirs := state.get("of")) != of:
        if isinstance(theirs, Mapping) and isinstance(of, Mapping):
            theirs, of = _apart(theirs, of), _apart(of, theirs)
        raise UserError(f"{path} belongs to {theirs}, not to {of}; delete it to train from the start")
    return state


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The settings of one that the other does not have."""
    return ", ".join(f"{key}={value}" for key, value in one.items() if key not in other or other[key] != value)


def copied(value: Any) -> Any:
    """Dicts and lists anew, and tensors in the processor's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value
