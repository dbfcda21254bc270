"""The records of a runs folder, each with its one reader and its one writer; without torch.

cells/ID.json             a configuration, its names, its stages, the sweeps that it belongs to
stages/ID/metrics.json    what a stage measured, and by which protocol
stages/ID/images.npz      what it measured of each image, where it did: metric -> one float32 for each, in their order
stages/ID/metrics.jsonl   the journal of a training: its curves; progress.json beside it while it trains
stages/ID/classes.json    the names of the classes by label, of latents whose images have such
sweeps/NAME/sweep.json    a request to Slurm, its cells and their stages; written at each submission
sweeps/events/ID.jsonl    what the jobs of a stage said: started, stopped, finished, failed, discarded, cancelled
sweeps/discarded.jsonl    results that came too late, of all stages: a look need not read every stage's events
mlflow.db                 MLflow's store, unless MLFLOW_TRACKING_URI names another: its address and spelling are here,
                          experiments.tracking writes it, and analysis.frame.mlflow reads it
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenbridge.config import UserError
from tokenbridge.overrides import near
from tokenbridge.store.artifacts import (
    MANIFEST,
    PARTIAL,
    Store,
    checked,
    json_bytes,
    read_json,
    writable,
    write_atomic,
    write_each,
    write_json,
)

METRICS = "metrics.json"
IMAGES = "images.npz"
JOURNAL = "metrics.jsonl"
SYSTEM = "system/"
"""beginning of the keys of points that say what the machine did, as MLflow's page has them"""
CLASSES = "classes.json"
_JOINT = " · "
"""between the names of a cell where they are shown; older runs folders hold them joined in one text"""
_AGAIN = "delete its folder and run again"


# cells


@dataclass(frozen=True)
class RecordedCell:
    """A cell as its record holds it: the configuration is plain values, which may come from an older version."""

    id: str
    names: list[str]
    """the one of the first run, then those by which other tables and plans call the same configuration"""
    experiment: str
    config: dict[str, Any]
    stages: dict[str, str]
    """id by kind"""
    sweeps: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """All names as they are shown."""
        return _JOINT.join(self.names)

    def called(self, text: str) -> bool:
        """Whether text is the cell's id, one of its names or all of them as they are shown."""
        return text in (self.id, self.name, *self.names)


def cell_ids(store: Store) -> list[str]:
    """Ids of all recorded cells, sorted."""
    return sorted(path.stem for path in (store.root / "cells").glob("*.json"))


def cell_file(store: Store, id: str) -> Path:
    """The record of a cell."""
    return store.root / "cells" / f"{id}.json"


def read_cell(store: Store, id: str) -> RecordedCell:
    """One recorded cell.

    Raises:
        UserError: there is none of this id, or its file is damaged.
    """
    path = cell_file(store, id)
    if not path.exists():
        raise UserError(f"cell {id} is not in {path.parent}; run it, or choose its folder with --runs")
    values = read_json(path, "delete it and run again")
    try:
        if "names" not in values:
            values["names"] = values.pop("name").split(_JOINT)
        cell = RecordedCell(**values)
        texts = [*cell.names, *cell.sweeps, *cell.stages.values(), *cell.config]
        if cell.id != id or isinstance(cell.names, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"it is that of {cell.id!r}" if cell.id != id else "its values are of another kind")
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no cell ({error}); delete it and run again") from error
    return cell


def readable_cells(store: Store) -> tuple[dict[str, RecordedCell], list[UserError]]:
    """All recorded cells by id, and an error for each whose record is damaged, which keeps no other back."""
    cells, errors = dict[str, RecordedCell](), list[UserError]()
    for id in cell_ids(store):
        try:
            cells[id] = read_cell(store, id)
        except UserError as error:
            errors.append(error)
    return cells, errors


def read_cells(store: Store) -> dict[str, RecordedCell]:
    """All recorded cells by id; those whose record is damaged are left out, and named on stderr once."""
    cells, errors = readable_cells(store)
    for error in errors:
        _tell(str(error))
    return cells


def cells_called(store: Store, what: str) -> list[RecordedCell]:
    """The recorded cells of an id or name. UserError names the nearest where there is none."""
    cells = read_cells(store)
    if matching := [cell for cell in cells.values() if cell.called(what)]:
        return matching
    close = near(what, [*{name: None for cell in cells.values() for name in cell.names}, *cells], 4)
    hint = f"did you mean {' or '.join(close)}?" if close else "tokenbridge run makes one"
    raise UserError(f"{what or repr(what)} is no cell of {store.root / 'cells'}; {hint}")


@cache
def _tell(line: str) -> None:
    print(f"tokenbridge: left out: {line}", file=sys.stderr)


def write_cells(store: Store, cells: Iterable[RecordedCell]) -> None:
    """Record cells; names, stages and sweeps that were recorded before are kept in front of the new ones.

    A damaged record is refused before any is written, and one that says what it said before is left as it is.
    """
    cells = list(cells)
    for cell in cells:
        if cell_file(store, cell.id).exists():
            read_cell(store, cell.id)
    with writable(store.root), store.lock("cells"):  # two sweeps may name the same cell at the same moment
        (store.root / "cells").mkdir(exist_ok=True)
        known = {cell.id: read_cell(store, cell.id) for cell in cells if cell_file(store, cell.id).exists()}
        merged: dict[str, RecordedCell] = {}
        for cell in cells:
            before = merged.get(cell.id) or known.get(cell.id, cell)
            merged[cell.id] = replace(
                cell,
                names=[*dict.fromkeys([*before.names, *cell.names])],
                stages=before.stages | cell.stages,
                sweeps=[*dict.fromkeys([*before.sweeps, *cell.sweeps])],
            )
        contents = ((cell_file(store, id), json_bytes(asdict(cell))) for id, cell in merged.items())
        write_each((path, new) for path, new in contents if path.stem not in known or path.read_bytes() != new)


def leave_sweep(store: Store, cells: Iterable[str], sweep: str) -> None:
    """Have recorded cells belong to a sweep no more.

    Args:
        store: the runs folder.
        cells: their ids.
        sweep: its name.
    """
    with writable(store.root), store.lock("cells"):
        for id in cells:
            cell = read_cell(store, id)
            left = replace(cell, sweeps=[name for name in cell.sweeps if name != sweep])
            write_json(cell_file(store, id), asdict(left))


# metrics of a stage


class Measured(NamedTuple):
    """What a stage measured. NaN and infinity are values."""

    metrics: dict[str, float]
    protocol: dict[str, Any]
    """all that the numbers depend on beside the configuration's other stages"""
    left_out: dict[str, list[float]]
    """metric -> its values without each group of images, from which the jackknife has its error"""


def write_metrics(folder: Path, metrics: Mapping[str, float], protocol: Mapping[str, Any], **more: Any) -> None:
    """Write metrics.json of a stage.

    Args:
        folder: the stage's, while it is written.
        metrics: number by name, without the kind of the stage.
        protocol: what two numbers must have in common to be compared.
        more: what else the file holds (left_out, warnings); empty values are left out.
    """
    write_json(folder / METRICS, {"metrics": metrics, "protocol": protocol} | {k: v for k, v in more.items() if v})


def write_images(folder: Path, values: Mapping[str, NDArray[np.floating]]) -> None:
    """Write images.npz of a stage: so that two stages with the same images can be compared image by image.

    Args:
        folder: the stage's, while it is written.
        values: metric, without the kind of the stage -> its value of each image (N), whose mean is the metric.
    """
    np.savez_compressed(folder / IMAGES, **{name: x.astype(np.float32) for name, x in values.items()})  # pyright: ignore[reportArgumentType]


def read_images(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Read images.npz of a stage's folder: metric -> (N); empty where it has none. UserError where it is damaged."""
    path = folder / IMAGES
    if not path.exists():
        return {}
    try:
        with np.load(checked(path), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not readable ({error}); {_AGAIN}") from error


def write_classes(folder: Path, names: Iterable[str]) -> None:
    """Write classes.json into a stage's folder; none where the classes have no names.

    Args:
        folder: of a latents stage.
        names: of the classes, by label.
    """
    if names := list(names):
        write_json(folder / CLASSES, names)


def read_classes(folder: Path) -> list[str]:
    """The names of the classes by label that a latents stage left in its folder.

    Empty where they have none, and for latents that are older than the file.

    Raises:
        UserError: the file is damaged.
    """
    return class_names(checked(path)) if (path := folder / CLASSES).exists() else []


def class_names(path: Path, remedy: str = _AGAIN) -> list[str]:
    """Read a list of names of classes by label. UserError where it is damaged."""
    names = read_json(path, remedy)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} must be a list of names of classes; {remedy}")
    return names


def has_metrics(folder: Path) -> bool:
    """Whether a stage left metrics."""
    return (folder / METRICS).exists()


def read_metrics(folder: Path) -> Measured:
    """Read metrics.json of a stage's folder. UserError where it is missing, damaged or holds other than numbers."""
    path = folder / METRICS
    content = read_json(checked(path))
    metrics = content.get("metrics") if isinstance(content, dict) else None
    if not isinstance(metrics, dict):
        raise UserError(f'{path} must hold {{"metrics": …, "protocol": …}}; {_AGAIN}')
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: {name}={value!r} must be a number; {_AGAIN}")
    numbers = {name: float(value) for name, value in metrics.items()}
    return Measured(numbers, content.get("protocol", {}), content.get("left_out", {}))


def measured(store: Store, stages: Mapping[str, str], silent: Collection[str]) -> dict[str, Measured]:
    """What the finished stages of a cell measured, by kind.

    Args:
        store: the runs folder.
        stages: id by kind.
        silent: kinds that may leave no metrics.

    Raises:
        UserError: a metrics file is damaged, or missing for a kind that is not silent.
    """
    finished = {kind: store.folder(id) for kind, id in stages.items() if store.finished(id)}
    return {kind: read_metrics(f) for kind, f in finished.items() if kind not in silent or has_metrics(f)}


# journals of trainings


class Journal:
    """Metrics by step as JSON lines [key, value, timestamp in ms, step], appended and flushed at once."""

    def __init__(self, path: Path, before: int | None = None):
        """Open a journal; a resumed run forgets lines of step `before` and later, as it writes them again."""
        self.path = path
        if before is not None and path.exists():
            kept = [json.dumps(line) + "\n" for line in read_journal(path, system=True) if line[3] < before]
            write_atomic(path, "".join(kept).encode())

    def write(self, step: int, **metrics: float) -> None:
        now = int(time.time() * 1000)
        with open(self.path, "a") as file:
            file.writelines(json.dumps([key, value, now, step]) + "\n" for key, value in metrics.items())


def read_journal(path: Path, system: bool = False) -> list[list[Any]]:
    """Lines of a journal; a last line cut by a kill is left out. UserError where another is none.

    Args:
        path: the journal.
        system: also the points of what the machine did.
    """
    lines = checked(path).read_text().splitlines(keepends=True) if path.exists() else []
    points = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            continue
        try:
            key, value, milliseconds, step = json.loads(line)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number} is no line of a journal ({error}); {_AGAIN}") from error
        if system or not key.startswith(SYSTEM):
            points.append([key, value, milliseconds, step])
    return points


def journal_end(path: Path, most: int = 8192) -> list[list[Any]]:
    """The last lines of a journal, each [key, value, time in ms, step]: what a look at many trainings can afford.

    Args:
        path: the journal.
        most: bytes to read; the line that they begin in is left out.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        lines = file.read().splitlines(keepends=True)
    return [json.loads(line) for line in lines[size > most :] if line.endswith(b"\n")]


def journal_of(store: Store, id: str) -> Path:
    """The journal of a training stage, finished or under way."""
    return store.folder(id if store.finished(id) else f"{id}{PARTIAL}") / JOURNAL


# sweeps, and what the jobs of stages said

Event = Literal["started", "stopped", "finished", "failed", "discarded", "cancelled"]
"""stopped: wrote a checkpoint on a signal, to go on later; discarded: another job had finished the stage meanwhile;
cancelled: said by `tokenbridge cancel`, since Slurm without accounting keeps no trace of it"""


@dataclass(frozen=True)
class CellStages:
    """A cell of a sweep: its name and, by kind, the ids of its stages in an order in which they can run."""

    name: str
    stages: dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """One name, one or more submissions."""

    name: str
    request: dict[str, Any]
    """experiments.grid.request.Request as JSON"""
    cells: dict[str, CellStages]
    """by cell id, of the rounds submitted so far"""
    cluster: str
    """file with the resources; empty for a grid of this machine, which is no sweep of Slurm (slurm/local.py)"""
    code: str
    """folder of the snapshot that the jobs run, below the runs folder"""
    command: str
    submitted: float
    """seconds since 1970, of the first submission"""
    round: int = 1
    """1: a search or trainings that later rows build on; 2: the rows"""
    rounds: int = 1
    done: bool = False
    """the last job has written the plan of the tables"""
    runtime: dict[str, Any] = field(default_factory=dict)
    """tokenbridge.config.Runtime of the stages, as JSON"""

    @property
    def stages(self) -> dict[str, str]:
        """Kind by stage id, each once, in an order in which they can run."""
        return {id: kind for cell in self.cells.values() for kind, id in cell.stages.items()}

    @property
    def local(self) -> bool:
        return not self.cluster

    @property
    def last(self) -> str:
        return ending(self.name)


def ending(name: str) -> str:
    """What the job that ends a round of a sweep is called where jobs are listed by stage."""
    return f"next-{name}"


NAME = re.compile(r"\w[\w.=-]*")
LONGEST_NAME = 100
"""bytes"""
TAKEN = ("all", "code", "events", "jobs.jsonl", "submissions.jsonl", "discarded.jsonl")
"""what `report` calls all reports, and what lies beside the folders of sweeps"""


def require_name(name: str, what: str = "--name=") -> None:
    """Raise UserError unless this can name a sweep, a report, a search or a cell: one rule for all of them.

    Args:
        name: becomes a part of files' and folders' names.
        what: stands before it in the message.
    """
    if not NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME or name in TAKEN:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
        raise UserError(
            f"{what}{shown if shown.isprintable() else ascii(shown)} must be letters, digits and . _ = -, begin with a"
            f" letter, digit or _, have at most {LONGEST_NAME} bytes (it names files and folders) and be none of"
            f" {', '.join(TAKEN)}; choose another name"
        )


def sweep_folder(store: Store, name: str = "") -> Path:
    """The folder of a sweep; without a name, that of all sweeps. It need not exist."""
    return store.root / "sweeps" / name


def is_sweep(store: Store, name: str) -> bool:
    """Whether a sweep of this name was submitted."""
    return (sweep_folder(store, name) / "sweep.json").exists()


def sweep_names(store: Store) -> list[str]:
    """Names of all sweeps, the oldest first."""
    paths = sweep_folder(store).glob("*/sweep.json")
    submitted = {path.parent.name: _sweep(path).submitted for path in paths}
    return sorted(submitted, key=lambda name: submitted[name])


def read_sweep(store: Store, name: str) -> Sweep:
    """One submitted sweep.

    Raises:
        UserError: there is none of this name, or its file is damaged.
    """
    require_name(name, "")
    if not is_sweep(store, name):
        names = ", ".join(sweep_names(store)) or f"none yet in {store.root}"
        raise UserError(f"{name} is no sweep; there is {names}")
    return _sweep(sweep_folder(store, name) / "sweep.json")


def _sweep(path: Path) -> Sweep:
    values = read_json(path, "delete it and submit again")
    try:
        cells = {id: CellStages(**cell) for id, cell in values.pop("cells").items()}
        return Sweep(cells=cells, **values)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no sweep ({error}); delete it and submit again") from error


def recorded_cells(store: Store, sweep: Sweep) -> list[str]:
    """Ids of a sweep's cells that are recorded: all but those that only ran ahead of a choice."""
    recorded = set(cell_ids(store))
    return [id for id in sweep.cells if id in recorded]


def write_sweep(store: Store, sweep: Sweep) -> None:
    """Write the record of a sweep, in place of an earlier one of its name."""
    path = sweep_folder(store, sweep.name) / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(sweep))


def write_event(store: Store, stage: str, event: Event, about: Mapping[str, Any]) -> None:
    """Add what a job says of a stage.

    Args:
        store: the runs folder.
        stage: the stage's id.
        event: what happened.
        about: the job, its host, its restart and, of a failure, its error.
    """
    said = {"event": event, "time": time.time(), **about}
    append_lines(_events(store, stage), [said])
    if event == "discarded":
        append_lines(sweep_folder(store) / "discarded.jsonl", [{"stage": stage, **said}])


def read_events(store: Store, stage: str) -> list[dict[str, Any]]:
    """What jobs said of a stage, the oldest first: event, time and what write_event was told."""
    return read_lines(_events(store, stage))


def stages_with_events(store: Store) -> set[str]:
    """Ids of the stages whose jobs said anything: one look at the folder instead of one for each stage."""
    return {name.removesuffix(".jsonl") for name in _names(sweep_folder(store) / "events")}


def discarded(store: Store) -> list[str]:
    """Stages that were made once more than needed, as often as they were."""
    return [line["stage"] for line in read_lines(sweep_folder(store) / "discarded.jsonl")]


def _events(store: Store, stage: str) -> Path:
    return sweep_folder(store) / "events" / f"{stage}.jsonl"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines; what a kill has cut, or what is being written, is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError):
            values.append(json.loads(line))
    return values


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines in one write: a file opened for appending keeps those of several processes apart.

    Each begins with a new line, so that it does not join one that a kill has cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(f"\n{json.dumps(value)}" for value in values) + "\n")


# how far stages are

Stamp = list[int] | None
"""time of change and size of a file; None where there is none"""


def finished_stages(store: Store) -> set[str]:
    """Ids of all finished stages: one look at the folder instead of one for each stage, which appears whole."""
    return {name for name in _names(store.root / "stages") if not name.endswith(PARTIAL)}


def begun_stages(store: Store) -> set[str]:
    """Ids of the stages that somebody has begun and not finished; whether they run is another matter."""
    return {name.removesuffix(PARTIAL) for name in _names(store.root / "stages") if name.endswith(PARTIAL)}


class StageFiles:
    """The stages' files, each looked at once: the cells of a sweep share most of them."""

    def __init__(self, store: Store):
        self.store, self.root, self.events = store, str(store.root / "stages"), str(sweep_folder(store) / "events")
        self.seen: dict[str, tuple[Stamp, Stamp, Stamp]] = {}
        self.journals: dict[str, Stamp] = {}
        self.failures: dict[str, str] = {}

    def stamps(self, id: str) -> tuple[Stamp, Stamp, Stamp]:
        """Stamps of a stage's manifest, of its metrics and, unless it is finished, of what jobs said of it."""
        if id not in self.seen:
            if manifest := _stamp(f"{self.root}/{id}/{MANIFEST}"):
                self.seen[id] = manifest, _stamp(f"{self.root}/{id}/{METRICS}"), None
            else:
                self.seen[id] = None, None, _stamp(f"{self.events}/{id}.jsonl")
        return self.seen[id]

    def finished(self, id: str) -> bool:
        return self.stamps(id)[0] is not None

    def journal(self, id: str) -> Stamp:
        """Stamp of a training's journal, finished or under way."""
        if id not in self.journals:
            self.journals[id] = _stamp(f"{self.root}/{id}{'' if self.finished(id) else PARTIAL}/{JOURNAL}")
        return self.journals[id]

    def failure(self, stages: Collection[str]) -> str:
        """The last line of the error of the first of these stages whose last job failed; empty where none did."""
        for id in stages:
            if self.stamps(id)[2] is not None and id not in self.failures:
                self.failures[id] = _failure(read_events(self.store, id))
        return next((error for id in stages if (error := self.failures.get(id))), "")


def _failure(events: list[dict[str, Any]]) -> str:
    if not events or events[-1].get("event") != "failed":
        return ""
    lines = str(events[-1].get("error") or "").strip().splitlines()
    return lines[-1].strip() if lines else "no word of why"


def _stamp(path: str) -> Stamp:
    try:
        stat = os.stat(path)  # noqa: PTH116 - pathlib takes three times as long, and there may be thousands
    except FileNotFoundError:
        return None
    return [stat.st_mtime_ns, stat.st_size]


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


# MLflow's store

EXPERIMENT = "tokenbridge"
"""in MLflow, the experiment of all runs"""
STORED_INFINITY = 1.7976931348623157e308
"""what MLflow stores for infinity"""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def tracking_uri(store: Store) -> str:
    """MLFLOW_TRACKING_URI if it is set, else a SQLite file in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root.resolve() / 'mlflow.db'}"


def database(uri: str) -> Path | None:
    """The SQLite file of a tracking URI; None for a server or another database."""
    match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    return Path(match[1]) if match else None


def without_credentials(text: str) -> str:
    """A text for messages, without the user and the password of a URI in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def spell(value: Any) -> str:
    """A setting as MLflow's text of it: JSON, and words as they are unless they would read as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError:
            return value
    return json.dumps(value)


def unspell(text: str) -> Any:
    """The setting that spell made a text of."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Around the import of MLflow and the making of a client: no noise, and no long wait for a server that is away."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it logs whole traces of what it raises
    with warnings.catch_warnings():
        # MLflow's use of SQLAlchemy: nothing that a reader could act on
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        yield
