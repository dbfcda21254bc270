"""The only writer to MLflow: brings it up to date from what the stages left in their folders.

One MLflow run a cell, one a training stage, one a report, found again by their tags, so sending twice gives nothing
twice. What was sent is remembered in `tracking.json` below the runs folder; that file only saves time and may be
deleted.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.mlflow_store import client, ensure_store, experiment_id, reaching, stamp, tracking_uri, ui, ui_command
from experiments.records import Content, Record, ReportRecord, find_records
from tokenbridge.artifacts import Store, digest, writable, write_json
from tokenbridge.config import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["ensure_store", "log_report", "sync", "tracking_uri", "ui", "ui_command"]

METRICS_A_CALL, WORDS_A_CALL = 1000, 100
"""the most that MLflow takes at once: metrics; parameters and tags"""
ID_TAG = {"cell": "cell", "training": "stage", "report": "report"}
INFINITY = 1.7976931348623157e308
"""what MLflow stores for it"""

Counts = dict[str, int]
_Item = TypeVar("_Item")


def sync(store: Store, cells: Iterable[str] | None = None) -> Counts:
    """Send what MLflow lacks of these cells (default: all) and of their trainings; returns how much of what was sent.

    Reads runs/cells/*.json and the stages' folders, finished or in training. One process at a time. A folder that
    cannot be read does not keep the others back. UserError: unreadable folder, MLflow away (send again later).
    """
    with writable(store.root), store.lock("mlflow"):
        return _send(store, find_records(store, cells))


def log_report(store: Store, name: str, folder: Path) -> Counts:
    """Send a report's index.html, tables/ and figures/ as artifacts of its own run."""
    with writable(store.root), store.lock("mlflow"):
        return _send(store, [ReportRecord(name, folder)])


class _Memory:
    """What was sent to one tracking URI: a signature a record, the last step of each curve, the store's time stamp."""

    def __init__(self, store: Store, uri: str):
        self.path, self.place = store.root / "tracking.json", digest(uri)
        try:
            self.all: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.all = {}  # MLflow itself is asked instead
        self.here = self.all.setdefault(self.place, {"stamp": None, "sent": {}, "last": {}})

    def knows(self, records: Iterable[Record], uri: str) -> bool:
        """Whether all was sent and nobody touched the store since (only a local store can tell)."""
        now = stamp(uri)
        return now is not None and now == self.here["stamp"] and all(self.has(record) for record in records)

    def has(self, record: Record) -> bool:
        return self.here["sent"].get(_key(record)) == record.signature

    def save(self) -> None:
        write_json(self.path, self.all)


def _send(store: Store, records: Sequence[Record]) -> Counts:
    counts: Counter[str] = Counter(runs=0, params=0, metrics=0, points=0, artifacts=0)
    memory = _Memory(store, tracking_uri(store))
    if not records or memory.knows(records, tracking_uri(store)):
        return dict(counts)
    from tqdm import tqdm

    uri = ensure_store(store)
    unreadable: list[UserError] = []
    with reaching(uri):
        mlflow = client(uri)
        experiment = experiment_id(mlflow, store, uri)
        sender = _Sender(mlflow, experiment, memory, counts)
        for record in tqdm(records, "to MLflow", unit="run", disable=None, leave=False):
            run = sender.runs.get(_key(record))
            if run is not None and memory.has(record):
                continue
            try:
                content = record.content()
            except UserError as error:
                unreadable.append(error)
                continue
            sender.send(record, content, run)
    memory.here["stamp"] = stamp(uri)
    memory.save()
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if unreadable[1:] else ""
        raise UserError(f"{unreadable[0]}{more}")
    return dict(counts)


class _Sender:
    def __init__(self, mlflow: MlflowClient, experiment: str, memory: _Memory, counts: Counter[str]):
        self.mlflow, self.experiment, self.memory, self.counts = mlflow, experiment, memory, counts
        self.runs = self._find()

    def _find(self) -> dict[str, Run]:
        """Our runs by kind and id; of two (two machines with one server) the first that was made."""
        found: list[Run] = []
        token = None
        while token != "":
            page = self.mlflow.search_runs([self.experiment], max_results=1000, page_token=token)
            found += page
            token = page.token or ""
        found.sort(key=lambda run: (run.info.start_time, run.info.run_id), reverse=True)
        kinds = [(run.data.tags.get("kind", ""), run) for run in found]
        return {f"{kind}/{run.data.tags.get(ID_TAG[kind])}": run for kind, run in kinds if kind in ID_TAG}

    def send(self, record: Record, content: Content, run: Run | None) -> None:
        if run is not None and _outdated(run, content):
            # MLflow never forgets a metric: the old run steps aside
            self.mlflow.set_tag(run.info.run_id, "kind", "superseded")
            run = None
        if run is None:
            self.memory.here["last"].pop(record.id, None)
            run = self._make(record, content)
        self._values(run, record, content)
        if content.points:
            self._points(run, record.id, content.points)
        self._files(run, content)
        if content.dataset and not (run.inputs and run.inputs.dataset_inputs):
            self._dataset(run, *content.dataset)
        status = "FINISHED" if content.done else "RUNNING"
        if run.info.status != status:
            end = run.info.start_time + round(1000 * content.seconds)
            if content.done:
                self.mlflow.set_terminated(run.info.run_id, status, end)
            else:
                self.mlflow.update_run(run.info.run_id, status)
        self.memory.here["sent"][_key(record)] = record.signature
        self.memory.save()

    def _make(self, record: Record, content: Content) -> Run:
        # the page shows end - start: let it be the seconds that the stages took, not the milliseconds of sending
        start = content.points[0][2] if content.points else round(1000 * (time.time() - content.seconds))
        tags = {"kind": record.kind, ID_TAG[record.kind]: record.id, "mlflow.source.name": "tokenbridge"}
        self.counts["runs"] += 1
        run = self.mlflow.create_run(self.experiment, start_time=start, tags=tags, run_name=record.name)
        self.runs[_key(record)] = run
        return run

    def _values(self, run: Run, record: Record, content: Content) -> None:
        """Tags, parameters and metrics that the run lacks or holds otherwise, in as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        tags = content.tags | {"kind": record.kind, "name": record.name}
        if run.data.tags.get("name") not in (None, record.name):  # another plan calls the same cell by another name
            self.mlflow.update_run(run.info.run_id, name=record.name)
        if training := self.runs.get(f"training/{tags.get('stage.train')}"):
            page = f"#/experiments/{self.experiment}/runs/{training.info.run_id}/model-metrics"
            name = training.info.run_name
            tags["mlflow.note.content"] = f"Curves: [{name}]({page}?workflowType=machine_learning)"
        now, old = round(1000 * time.time()), run.data
        changed = [key for key, value in content.metrics.items() if not _same(value, old.metrics.get(key))]
        metrics = [Metric(key, content.metrics[key], now, 0) for key in changed]
        params = [Param(key, value) for key, value in content.params.items() if key not in old.params]
        words = [RunTag(key, value) for key, value in tags.items() if old.tags.get(key) != value]
        parts = (_parts(metrics, METRICS_A_CALL), _parts(params, WORDS_A_CALL), _parts(words, WORDS_A_CALL))
        for some_metrics, some_params, some_tags in zip_longest(*parts, fillvalue=[]):
            self.mlflow.log_batch(run.info.run_id, some_metrics, some_params, some_tags, synchronous=True)
        self.counts.update(params=len(params), metrics=len(metrics))

    def _points(self, run: Run, id: str, points: list[list[Any]]) -> None:
        """The curves beyond the last step that MLflow has.

        A resumed training writes steps again, with new times: a step that was sent is not sent twice.
        """
        from mlflow.entities import Metric

        last = self.memory.here["last"].get(id)
        if last is None:
            keys = [key for key in dict.fromkeys(point[0] for point in points) if key in run.data.metrics]
            last = {key: max(p.step for p in self.mlflow.get_metric_history(run.info.run_id, key)) for key in keys}
        last = self.memory.here["last"][id] = dict(last)
        news = [Metric(key, value, ms, step) for key, value, ms, step in points if step > last.get(key, -1)]
        for part in _parts(news, METRICS_A_CALL):
            self.mlflow.log_batch(run.info.run_id, metrics=part, synchronous=True)
            last |= {metric.key: metric.step for metric in part}
            self.memory.save()
        self.counts["points"] += len(news)

    def _files(self, run: Run, content: Content) -> None:
        if not content.files:
            return
        with tempfile.TemporaryDirectory(prefix="tokenbridge-") as name:
            for path, data in content.files.items():
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_bytes(data)
            self.mlflow.log_artifacts(run.info.run_id, name)
        self.counts["artifacts"] += len(content.files)

    def _dataset(self, run: Run, name: str, hash: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        origin = json.dumps({"tags": {"mlflow.source.name": source}})
        dataset = Dataset(name=name, digest=hash, source_type="code", source=origin)
        context = InputTag("mlflow.data.context", "training")
        self.mlflow.log_inputs(run.info.run_id, [DatasetInput(dataset, [context])])


def _key(record: Record) -> str:
    return f"{record.kind}/{record.id}"


def _outdated(run: Run, content: Content) -> bool:
    """Whether a run holds what its cell no longer has: other stages, or metrics that a stage made anew leaves out."""
    stages = {key: id for key, id in content.tags.items() if key.startswith("stage.")}
    ours = (key for key in run.data.metrics if f"stage.{key.split('/')[0]}" in stages)
    return any(run.data.tags.get(key, id) != id for key, id in stages.items()) or not set(ours) <= set(content.metrics)


def _same(value: float, stored: float | None) -> bool:
    if stored is None:
        return False
    if math.isnan(value):
        return math.isnan(stored)
    return value == stored or (math.isinf(value) and stored == math.copysign(INFINITY, value))


def _parts(items: Iterable[_Item], size: int) -> Iterable[list[_Item]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
