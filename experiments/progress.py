"""How far a training is, and how long stages take: what commands and status tell of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Self

from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import build
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import PARTIAL, PROGRESS, Store, read_json
from tokenbridge.store.runs import JOURNAL, journal_end

if TYPE_CHECKING:
    from rich.progress import TaskID


@dataclass(frozen=True)
class Training:
    """A training that is under way: where it is, and the seconds to its end."""

    step: int
    steps: int
    loss: float
    seconds: float


def training(store: Store, id: str) -> Training | None:
    """How far a training is, from the end of its journal; None before its second point and when it is finished.

    Args:
        store: the runs folder.
        id: the training stage's.
    """
    work = store.folder(id).with_name(f"{id}{PARTIAL}")
    try:
        points = [line for line in journal_end(work / JOURNAL) if line[0] == "loss"]
        steps = read_json(work / PROGRESS)["steps"]
    except (OSError, UserError):
        return None  # it has just begun or ended: its files come and go while we look
    if len(points) < 2:
        return None
    points = points[-20:]
    # the median: between two of them may lie a wait in a queue, and another node's clock
    rate = median((now - then) / max(1, step - first) for (_, _, then, first), (_, _, now, step) in pairwise(points))
    _, loss, _, step = points[-1]
    return Training(step, steps, loss, (steps - step) * max(0.0, rate) / 1000)


def training_line(store: Store, id: str) -> str | None:
    """Step, loss and time left of a training that is under way, for a terminal; None where `training` knows nothing."""
    if (at := training(store, id)) is None:
        return None
    return f"step {at.step}/{at.steps}, loss {at.loss:.3f}, about {time_text(at.seconds)} to go"


class Bars:
    """Bars in a terminal: of all stages by the time that each is expected to take, and of each stage that runs.

    Lines that are printed meanwhile stand above them, and they go when they end.
    """

    def __init__(self, store: Store, seconds: float):
        from rich.progress import BarColumn, Progress, TextColumn

        left = TextColumn("{task.fields[left]}")
        self.store, self.total = store, seconds
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(), left, transient=True)
        self.whole = self.progress.add_task("all stages", total=seconds, left="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, running: Mapping[str, str], seconds: float, jobs: int) -> None:
        """Bring the bars up to date.

        Args:
            running: id of each stage that runs -> what it is called.
            seconds: that the stages which are not finished are expected to take, one after another.
            jobs: stages at a time.
        """
        for id in self.tasks.keys() - running.keys():
            self.progress.remove_task(self.tasks.pop(id))
        for id, name in running.items():
            if id not in self.tasks:
                self.tasks[id] = self.progress.add_task(name, total=None, left="")
            if at := training(self.store, id):
                left = f"{time_text(at.seconds)} left, loss {at.loss:.3f}"
                self.progress.update(self.tasks[id], total=at.steps, completed=at.step, left=left)
                seconds = max(seconds, at.seconds)
        self.total = max(self.total, seconds)
        left = f"about {time_text(seconds / jobs)} left"
        self.progress.update(self.whole, total=self.total, completed=self.total - seconds, left=left)


def seconds_of_work(store: Store) -> dict[str, float]:
    """Seconds for a unit of work of each kind: of the last finished stage in this store, else a first guess.

    A manifest says how much work the stage was; by older ones it is computed, where that downloads nothing.
    """
    seconds = dict[str, float]()
    for path in sorted(store.root.glob("stages/*/manifest.json"), key=lambda path: -path.stat().st_mtime):
        if path.parent.name.rpartition("-")[0] in seconds:
            continue
        about = store.manifest(path.parent.name)
        if about["kind"] not in STAGES:
            continue  # of a stage that this version lacks
        try:
            config = build(RunConfig, about["config"])
        except UserError:
            continue  # of another version of the project
        if {"train": config.train.released, "sample": config.sample.given}.get(about["kind"]):
            continue  # imported
        if "work" in about or config.data.source != "torchvision":
            work = about["work"] if "work" in about else STAGES[about["kind"]].work(config)
            seconds[about["kind"]] = about["wall_seconds"] / work
    return {name: kind.seconds for name, kind in STAGES.items()} | seconds


def time_text(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
