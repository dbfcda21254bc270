"""The records of cells, rows, trainings, sweeps and reports: what MLflow shall hold of each, from the runs folder."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tracking import rows as report_rows
from experiments.tracking.content import Content, Record, Status
from experiments.tracking.rows import ERROR, SEEDS, ReportRow
from experiments.tracking.views import (
    ABSENT,
    LISTED,
    MEMBER,
    direction,
    member_tag,
    of_sweep,
    text_of,
    texts,
    varying,
)
from tokenbridge.config import RunConfig, UserError
from tokenbridge.exchange.card import card
from tokenbridge.metrics.catalogue import telling
from tokenbridge.overrides import build, flatten, unread
from tokenbridge.stages import kind_of, unmeasured
from tokenbridge.store.artifacts import MANIFEST, Store, digest, file_hash
from tokenbridge.store.runs import (
    METRICS,
    SYSTEM,
    Measured,
    RecordedCell,
    StageFiles,
    is_sweep,
    journal_of,
    measured,
    read_cell,
    read_journal,
    read_metrics,
    read_sweep,
    readable_cells,
    spell,
)

FORMAT = 6
"""raise it when the content of the records changes: everything is then sent anew"""
DIGEST = 12
"""characters of a data set's digest that its page has room for"""
VALUES_SHOWN = 12
"""values of a setting that varies, in the note of a sweep"""
COLUMNS, GAP = 10, 2
"""images in a row of a picture, and pixels between them"""
LEAST_PIXELS = 64
"""to which the sides of small images are enlarged, without smoothing"""

Best = tuple[float, float, str, str]
"""of a cell or row with a metric: its number of images (negative), the value, its name, and all of text_of"""


class CellRecord:
    """A cell: its settings, and the metrics, manifests and pictures of its finished stages."""

    kind = "cell"

    def __init__(
        self, store: Store, cell: RecordedCell, stages: StageFiles, row: str = "", alone: Collection[str] = ()
    ):
        """row: id of that of several seeds under which it lies; alone: reports of which it is a row by itself."""
        self.store, self.cell, self.id, self.name, self.title = store, cell, cell.id, cell.name, _title(cell)
        self.parent = f"row/{row}" if row else f"sweep/{cell.sweeps[0]}" if cell.sweeps else ""
        self.listed = [sweep for sweep in cell.sweeps if sweep in alone]
        self.finished = {kind: id for kind, id in cell.stages.items() if stages.finished(id)}
        self.error = stages.failure(cell.stages.values())
        about = [cell.id, cell.name, cell.experiment, cell.stages, cell.sweeps]  # the id stands for the config
        about += [self.listed] if self.listed else []
        self.signature = digest([FORMAT, about, [stages.stamps(id) for id in cell.stages.values()]])

    def content(self) -> Content:
        cell, folders = self.cell, {kind: self.store.folder(id) for kind, id in self.finished.items()}
        manifests = {kind: self.store.manifest(id) for kind, id in self.finished.items()}
        tags = {"cell": cell.id, "experiment": cell.experiment}
        if cell.sweeps:
            tags |= {"sweep": ", ".join(cell.sweeps)} | {member_tag(sweep): MEMBER for sweep in cell.sweeps}
            tags |= {member_tag(sweep): LISTED for sweep in self.listed}
        tags |= {f"stage.{kind}": id for kind, id in cell.stages.items()} | _provenance(manifests)
        metrics: dict[str, float] = {}
        files: dict[str, bytes] = {}
        results = measured(self.store, self.finished, unmeasured())
        for kind, folder in folders.items():
            files[f"{kind}/{MANIFEST}"] = (folder / MANIFEST).read_bytes()
            if kind in results:
                metrics |= {f"{kind}/{name}": value for name, value in results[kind].metrics.items()}
                tags[f"protocol.{kind}"] = json.dumps(results[kind].protocol, sort_keys=True)
                files[f"{kind}/{METRICS}"] = (folder / METRICS).read_bytes()
            for name, arrays in kind_of(kind).pictures.items():
                files[f"{kind}/{name}"] = picture(folder / "examples.npz", arrays)
        if "train" in folders:  # its weights may be gigabytes, and stay where they are
            tags["weights"] = str(folders["train"].resolve())
            files["model/README.md"] = _card(self.store, cell, results).encode()
        return Content(
            tags=tags | texts(metrics),
            params=_params(cell),
            metrics={key: metrics[key] for key in dict.fromkeys([*telling(metrics), *metrics])},
            files=files,
            dataset=_dataset(cell, manifests.get("latents")),
            seconds=sum(manifest.get("wall_seconds") or 0 for manifest in manifests.values()),
            status=_status(len(self.finished) == len(cell.stages), self.error),
            error=self.error,
        )


class TrainingRecord:
    """The curves of a training stage, once for all cells that share it; also while it trains."""

    kind, parent = "training", ""

    def __init__(self, store: Store, id: str, cells: list[RecordedCell], stages: StageFiles):
        self.store, self.id, self.cells = store, id, sorted(cells, key=lambda cell: cell.name)
        self.done, self.error = stages.finished(id), stages.failure([id])
        self.stage = next(kind for kind, stage in self.cells[0].stages.items() if stage == id)
        self.name = f"{self.stage} {self.cells[0].name}"
        names, journal = [cell.name for cell in self.cells], stages.journal(id)
        self.started = journal is not None
        self.signature = digest([FORMAT, self.done, journal, names, self.error])

    def content(self) -> Content:
        cell, sections = self.cells[0], kind_of(self.stage).all_sections
        manifest = self.store.manifest(self.id) if self.done else {}
        config = {section: values for section, values in cell.config.items() if section in sections}
        journal = read_journal(journal_of(self.store, self.id), system=True)
        points = [[key if key.startswith(SYSTEM) else f"{self.stage}/{key}", *rest] for key, *rest in journal]
        model = {"weights": str(self.store.folder(self.id).resolve())} if self.done and self.stage == "train" else {}
        return Content(
            tags={"stage": self.id, "cells": ", ".join(c.name for c in self.cells)}
            | _provenance({self.stage: manifest}),
            params={key: spell(value) for key, value in flatten(config).items()},
            points=points,
            seconds=manifest.get("wall_seconds") or 0,
            status=_status(self.done, self.error),
            error=self.error,
            model=model,
            card=_card(self.store, cell, measured(self.store, {self.stage: self.id}, unmeasured())) if model else "",
        )


class SweepRecord:
    """A sweep, under whose run those of its cells lie: what they share, what varies, the best of each metric."""

    kind, parent = "sweep", ""

    def __init__(
        self,
        store: Store,
        name: str,
        cells: Sequence[RecordedCell],
        stages: StageFiles,
        rows: Sequence[ReportRow] = (),
    ):
        """rows: those of the report of this name, which its view lists where one has several seeds."""
        self.store, self.id, self.name, self.stages = store, name, name, stages
        self.cells = sorted(cells, key=lambda cell: cell.name)
        own = {cell.id for cell in cells}
        rows = [row for row in rows if own.issuperset(row.cells)]
        self.rows = rows if any(len(row.cells) > 1 for row in rows) else []
        self.submission = read_sweep(store, name) if is_sweep(store, name) else None
        self.command = self.submission.command if self.submission else ""
        about = [self.command, [[cell.id, cell.name] for cell in self.cells], _stamps(self.cells, stages)]
        about += [[[row.id, row.cells[:1], sorted(row.metrics)] for row in self.rows]] if self.rows else []
        self.signature = digest([FORMAT, *about])

    def content(self) -> Content:
        settings, states = list(map(_params, self.cells)), _states(self.cells, self.stages)
        compared = self._compared()
        best = {key: min(each, key=_rank(key)) for key, each in compared.items()}
        tags = {"sweep": self.id, "states": _told(states)}
        tags |= {member_tag(self.id): MEMBER} | ({"command": self.command} if self.command else {})
        return Content(
            tags=tags | {key: f"best {text}: {name}" for key, (_, _, name, text) in best.items()},
            params=_shared(settings),
            metrics={f"best/{_best_name(key)}": value for key, (_, value, _, _) in best.items()}
            | {"cells": len(self.cells), "cells_finished": states["finished"]},
            seconds=self._seconds(),
            started=self.submission.submitted if self.submission else 0.0,
            status=_status_of(states),
            error=self.stages.failure([id for cell in self.cells for id in cell.stages.values()]),
            note=self._note(varying(settings)),
            view=self._view(compared),
        )

    def _view(self, compared: Collection[str]) -> dict[str, Any]:
        """Of its rows, unless there are none or cells that no row has yet are under way."""
        measured = {*compared, *(key for row in self.rows for key in (SEEDS, *row.metrics))}
        known = {id for row in self.rows for id in row.cells}
        if not self.rows or _states([cell for cell in self.cells if cell.id not in known], self.stages)["open"]:
            errors = {f"{key}{ERROR}" for key in compared if self._has(self.cells, f"{key}{ERROR}")}
            names = [self.name, *map(_title, self.cells), *(row.name for row in self.rows)]
            return of_sweep(self.id, varying(self._ranked(self.cells, compared)), measured | errors, "", names)
        first = {row.cells[0] for row in self.rows}
        ranked = self._ranked([cell for cell in self.cells if cell.id in first], compared)
        return of_sweep(self.id, varying(ranked), measured, LISTED, [row.name for row in self.rows])

    def _ranked(self, cells: Sequence[RecordedCell], compared: Collection[str]) -> list[dict[str, str]]:
        """Settings of those cells that have the metric by which a list ranks them; where none is there, of all."""
        main = next(iter(telling(compared)), "")
        return [_params(cell) for cell in cells if not main or self._has([cell], main)]

    def _has(self, cells: Sequence[RecordedCell], key: str) -> bool:
        """Whether one of these cells has a metric."""
        kind, _, name = key.partition("/")
        ids = (cell.stages[kind] for cell in cells if kind in cell.stages)
        return any(self.stages.stamps(id)[1] and name in read_metrics(self.store.folder(id)).metrics for id in ids)

    def _compared(self) -> dict[str, list[Best]]:
        """Metrics that say better or worse, with all rows that have them; without rows, with all cells.

        Of a row of several seeds its mean counts: the best of its seeds would be the luckiest.
        """
        of_cells = self._of_cells()
        if not self.rows:
            return {key: list(each.values()) for key, each in of_cells.items()}
        compared: dict[str, list[Best]] = {}
        for key, each in of_cells.items():
            for row in self.rows:
                if (first := each.get(row.cells[0])) is None or (len(row.cells) > 1 and key not in row.metrics):
                    continue
                mean = (first[0], row.metrics[key], row.name, text_of(key, row.metrics)) if row.metrics else first
                compared.setdefault(key, []).append(mean)
        return compared

    def _of_cells(self) -> dict[str, dict[str, Best]]:
        """By metric that says better or worse, the cells that have it, by id."""
        compared: dict[str, dict[str, Best]] = {}
        read: dict[str, Measured] = {}
        for cell in self.cells:
            for kind, id in cell.stages.items():
                if not kind_of(kind).compared or not self.stages.stamps(id)[1]:
                    continue
                metrics, protocol, _ = read[id] = read.get(id) or read_metrics(self.store.folder(id))
                keyed = {f"{kind}/{name}": value for name, value in metrics.items()}
                for key, value in keyed.items():
                    if direction(key) and value == value:
                        found = (-float(protocol.get("images", 0)), value, _title(cell), text_of(key, keyed))
                        compared.setdefault(key, {})[cell.id] = found
        return compared

    def _seconds(self) -> float:
        """From the submission to the last result so far; where nothing was submitted, those that its stages took."""
        if self.submission is None:
            return _seconds(self.store, self.cells, self.stages)
        stages = _finished(self.cells, self.stages)
        ends = (self.stages.stamps(id)[0] for id in stages)
        last = max((end[0] / 1e9 for end in ends if end), default=0.0)
        return max(0.0, last - self.submission.submitted)

    def _note(self, varying: Mapping[str, Sequence[str]]) -> str:
        lines = [f"{len(self.cells)} cells" + (", which differ in" if varying else "")]
        for key, values in varying.items():
            spelled = [value for value in values if value != ABSENT]
            more = f", … ({len(spelled)})" if len(spelled) > VALUES_SHOWN else ""
            lines.append(f"- `{key}`: {', '.join(sorted(spelled[:VALUES_SHOWN], key=_by_size))}{more}")
        return "\n".join([*lines, *(["", f"`{self.command}`"] if self.command else [])])


class RowRecord:
    """A row of a report's tables, under whose run lie those of its seeds: the numbers that the tables print."""

    kind = "row"

    def __init__(self, store: Store, row: ReportRow, cells: Sequence[RecordedCell], stages: StageFiles):
        self.store, self.row, self.cells, self.stages = store, row, cells, stages
        self.id, self.name = row.id, row.name
        self.sweep = row.report if all(row.report in cell.sweeps for cell in cells) else ""
        self.parent = f"sweep/{self.sweep}" if self.sweep else ""
        names = [[cell.id, cell.name] for cell in cells]
        self.signature = digest([FORMAT, asdict(row), self.sweep, names, _stamps(cells, stages)])

    def content(self) -> Content:
        states = _states(self.cells, self.stages)
        tags = {"row": self.id, "cells": ", ".join(cell.id for cell in self.cells)} | self.row.tags
        tags |= {"sweep": self.sweep, member_tag(self.sweep): LISTED} if self.sweep else {}
        return Content(
            tags=tags | {"states": _told(states)} | texts(self.row.metrics),
            params=_shared(list(map(_params, self.cells))),
            metrics=self.row.metrics | {SEEDS: len(self.cells)},
            seconds=_seconds(self.store, self.cells, self.stages),
            status=_status_of(states),
            error=self.stages.failure([id for cell in self.cells for id in cell.stages.values()]),
            note=self.row.note,
        )


class ReportRecord:
    """A report's pages, tables and figures."""

    kind, parent = "report", ""

    def __init__(self, name: str, folder: Path):
        self.id, self.name = name, f"report {name}"
        parts = [folder / name for name in ("index.html", "report.md", "paper.tex")]
        parts += [*(folder / "tables").rglob("*"), *(folder / "figures").rglob("*")]
        self.paths = {str(path.relative_to(folder)): path for path in sorted(parts) if path.is_file()}
        self.signature = digest([FORMAT, {name: file_hash(path) for name, path in self.paths.items()}])

    def content(self) -> Content:
        files = {name: path.read_bytes() for name, path in self.paths.items()}
        return Content(tags={"report": self.id, "files": ", ".join(files)}, files=files)


def find_records(store: Store, ids: Iterable[str] | None, unreadable: list[UserError] | None = None) -> list[Record]:
    """Records of these cells, of their sweeps, of the rows that they belong to and of their trainings.

    Sweeps, rows and trainings come first, as the runs of the cells lie under the ones and link to the others. A cell
    lies under one run, though it may belong to several sweeps, and to a row of each: under the row of the first of its
    sweeps that has one, else under the first sweep.

    Args:
        store: the runs folder.
        ids: of the cells; None for all.
        unreadable: gets an error for each record that is damaged, where all are asked for.

    Raises:
        UserError: one of these cells is not in the folder, or its record is damaged.
    """
    recorded, errors = readable_cells(store)
    if ids is None and unreadable is not None:
        unreadable += errors
    ids = recorded if ids is None else list(dict.fromkeys(ids))
    for id in ids:
        if id not in recorded:
            read_cell(store, id)  # raises
    cells, stages = sorted((recorded[id] for id in ids), key=lambda cell: cell.name), StageFiles(store)
    rows = {
        report: [row for row in each if all(id in recorded for id in row.cells)]
        for report, each in report_rows.read(store).items()
    }
    trained = dict.fromkeys(id for cell in cells for id in _trainings_of(cell))
    names = dict.fromkeys(name for cell in cells for name in cell.sweeps)
    members: dict[str, list[RecordedCell]] = {name: [] for name in names}
    for cell in recorded.values():
        for name in names.keys() & set(cell.sweeps):
            members[name].append(cell)
    sweeps = [SweepRecord(store, name, members[name], stages, rows.get(name, ())) for name in names]
    trainings = find_trainings(store, recorded, trained, stages)
    several = _rows_of(cells, rows, store, recorded, stages)
    return [*sweeps, *several, *trainings, *_cells_of(cells, rows, store, stages)]


def _rows_of(
    cells: Sequence[RecordedCell],
    rows: Mapping[str, Sequence[ReportRow]],
    store: Store,
    recorded: Mapping[str, RecordedCell],
    stages: StageFiles,
) -> list[RowRecord]:
    """Records of the rows of several seeds that have one of these cells."""
    ids = {cell.id for cell in cells}
    several = [row for each in rows.values() for row in each if len(row.cells) > 1 and not ids.isdisjoint(row.cells)]
    return [RowRecord(store, row, [recorded[id] for id in row.cells], stages) for row in several]


def _cells_of(
    cells: Sequence[RecordedCell], rows: Mapping[str, Sequence[ReportRow]], store: Store, stages: StageFiles
) -> list[CellRecord]:
    places, alone = report_rows.places(rows), dict[str, list[str]]()
    for report, each in rows.items():
        for row in each:
            if len(row.cells) == 1 and report not in places.get(row.cells[0], ()):
                alone.setdefault(row.cells[0], []).append(report)
    records = []
    for cell in cells:
        above = places.get(cell.id, {})
        first = next((above[name] for name in cell.sweeps if name in above), next(iter(above.values()), ""))
        records.append(CellRecord(store, cell, stages, first, alone.get(cell.id, ())))
    return records


def find_trainings(
    store: Store, cells: Mapping[str, RecordedCell], ids: Collection[str], stages: StageFiles
) -> list[TrainingRecord]:
    """Records of these training stages, as far as they have begun.

    Args:
        store: the runs folder.
        cells: recorded cells by id, among them those that share the trainings.
        ids: of the training stages; those of no cell are left out.
        stages: the stages' files, each looked at once.
    """
    sharing: dict[str, list[RecordedCell]] = {}
    for cell in cells.values():
        for id in _trainings_of(cell):
            sharing.setdefault(id, []).append(cell)
    trainings = [TrainingRecord(store, id, sharing[id], stages) for id in ids if id in sharing]
    return [training for training in trainings if training.started]


def _trainings_of(cell: RecordedCell) -> list[str]:
    """Ids of the stages of a cell that leave curves."""
    return [id for kind, id in cell.stages.items() if kind_of(kind).curves]


def picture(examples: Path, arrays: Sequence[str]) -> bytes:
    """Images of examples.npz as a PNG for MLflow's artifact view; analysis draws its own figures.

    Args:
        examples: the file that a stage left.
        arrays: names of uint8 arrays (n, 1 or 3, H, W): one is shown in rows of ten, several one above the other.
    """
    parts = [_read_images(examples, name) for name in arrays]
    if len({part.shape for part in parts}) > 1:
        shapes = " and ".join(f"{name} {part.shape}" for name, part in zip(arrays, parts, strict=True))
        raise UserError(f"{examples}: {shapes} must have one shape; delete its folder and run again")
    return _png(_sheet(np.concatenate(parts), COLUMNS if len(parts) == 1 else len(parts[0])))


def _read_images(path: Path, key: str) -> np.ndarray:
    try:
        # opened here: NumPy leaves the file open where its zip is damaged
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = arrays[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} has no readable {key!r} ({error}); delete its folder and run again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(
            f"{path}: {key} is {images.dtype} {images.shape}, must be uint8 (n, 1 or 3, H, W);"
            " delete its folder and run again"
        )
    return images


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (n, ch, H, W) -> (rows, columns) of enlarged images on white, (height, width, ch)."""
    n, channels, height, width = images.shape
    factor = max(1, -(-LEAST_PIXELS // max(height, width)))
    images = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    height, width = height * factor + GAP, width * factor + GAP
    sheet = np.full((-(-n // columns) * height - GAP, min(n, columns) * width - GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _png(sheet: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()


def _title(cell: RecordedCell) -> str:
    """The shortest of a cell's names: a sweep's tells what varies there, that of a run alone all that was typed."""
    return min(cell.names, key=len)


def _card(store: Store, cell: RecordedCell, results: Mapping[str, Measured]) -> str:
    return card(cell.name, f'"{store.root}", "{cell.name}"', build(RunConfig, cell.config), results)


def _params(cell: RecordedCell) -> dict[str, str]:
    """The settings of a cell that its stages read, as MLflow has them."""
    settings = flatten(cell.config)
    left_out = unread(settings, cell.stages)
    return {key: spell(value) for key, value in settings.items() if key not in left_out}


def _shared(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Those that all have alike."""
    return {key: value for key, value in settings[0].items() if all(each.get(key) == value for each in settings)}


def _stamps(cells: Sequence[RecordedCell], stages: StageFiles) -> dict[str, Any]:
    return {id: stages.stamps(id) for cell in cells for id in cell.stages.values()}


def _finished(cells: Sequence[RecordedCell], stages: StageFiles) -> list[str]:
    """Ids of the finished stages of cells, each once."""
    return list(dict.fromkeys(id for cell in cells for id in cell.stages.values() if stages.finished(id)))


def _seconds(store: Store, cells: Sequence[RecordedCell], stages: StageFiles) -> float:
    """What the finished stages of cells took, those that they share once."""
    return sum(store.manifest(id).get("wall_seconds") or 0.0 for id in _finished(cells, stages))


def _states(cells: Sequence[RecordedCell], stages: StageFiles) -> Counter[str]:
    """How many cells are finished, failed and open."""

    def state(cell: RecordedCell) -> str:
        if all(stages.finished(id) for id in cell.stages.values()):
            return "finished"
        return "failed" if stages.failure(cell.stages.values()) else "open"

    return Counter(map(state, cells))


def _told(states: Mapping[str, int]) -> str:
    return ", ".join(f"{state} {count}" for state, count in sorted(states.items()))


def _status_of(states: Mapping[str, int]) -> Status:
    return "RUNNING" if states.get("open") else "FAILED" if states.get("failed") else "FINISHED"


def _status(done: bool, error: str) -> Status:
    return "FINISHED" if done else "FAILED" if error else "RUNNING"


def _best_name(key: str) -> str:
    """A metric of generated images needs no kind of stage before it: the names tell them apart."""
    kind, _, name = key.partition("/")
    return name if kind_of(kind).result == "generation" else key


def _rank(key: str) -> Any:
    """Among the cells measured on the most images, the best first; of equal ones the first by name."""
    sign = direction(key)
    return lambda cell: (cell[0], sign * cell[1], cell[2])


def _by_size(text: str) -> tuple[float, str]:
    try:
        return float(json.loads(text)), text
    except (TypeError, ValueError):
        return 0.0, text


def _dataset(cell: RecordedCell, latents: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    data = cell.config.get("data", {})
    if latents is None or not data:
        return None
    source = data.get("path") or "sklearn.datasets.load_digits"
    name = f"{Path(source).name if data.get('path') else data['source']}-{data['image_size']}"
    return name, str(latents["reads"]["images"])[:DIGEST], source


def _provenance(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Code, libraries, machine and job of the stages; where they differ, each value once, in the stages' order."""
    values: dict[str, dict[str, None]] = {}
    for kind, manifest in manifests.items():
        job = manifest.get("job") or {}
        flat = flatten({"git": manifest.get("git") or {}, "version": manifest.get("versions") or {}})
        flat |= {
            "host": manifest.get("host"),
            "cpu": manifest.get("cpu"),
            f"seconds.{kind}": manifest.get("wall_seconds"),
            f"slurm.job_id.{kind}": job.get("id"),
            f"slurm.restarts.{kind}": job.get("restarts"),
        }
        for key, value in flat.items():
            if value is not None:
                values.setdefault(key, {})[spell(value) if isinstance(value, bool) else str(value)] = None
    return {key: ", ".join(texts) for key, texts in values.items()}
