"""Sends records to MLflow so that each run, value and point is there once, whatever was interrupted before.

MLflow itself says how far a curve is: it keeps the highest step of each, and a batch goes in whole or not at all. What
it cannot say is whether a batch whose answer never came is still under way; that batch stands in the memory before it
is sent, and is sent again as it was, which MLflow takes as the same points.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.tracking import views
from experiments.tracking.content import Content, Record, key_of, title_of
from experiments.tracking.memory import Memory
from experiments.tracking.store import file_of, save_view
from tokenbridge.store.runs import STORED_INFINITY

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS_PER_CALL, WORDS_PER_CALL = 1000, 100
"""the most that MLflow takes at once: metrics; parameters and tags"""
ID_TAG = {"cell": "cell", "row": "row", "training": "stage", "report": "report", "sweep": "sweep"}
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
PASSING = ("error", "refused", "verdict.")
"""beginnings of tags that go when what they say is no longer so"""
GIVEN = "sample.given"
"""the setting of samples that another program drew"""
SHORT = 1000
"""characters of a tag that a run is made with; longer ones follow, as MLflow cuts them"""
BELOW = 100_000
"""ms after a sweep's start in which its cells start, for MLflow: they share their stages, so no time is right"""
EXTERNAL = "mlflow.model.isExternal"
"""tag of a model whose weights MLflow does not keep"""
NOT_IN_A_MODEL_S_NAME = str.maketrans(dict.fromkeys("/:.%\"'", "-"))
FEW = 20
"""runs that are looked up one by one; for more, one search is faster"""

_Item = TypeVar("_Item")


class Sender:
    """Sends records to one experiment."""

    def __init__(
        self,
        mlflow: MlflowClient,
        experiment: str,
        memory: Memory,
        counts: Counter[str],
        reports: Collection[str] = (),
    ):
        """reports: those that have a plan in the runs folder, which alone says what belongs to them."""
        self.mlflow, self.experiment, self.memory, self.counts = mlflow, experiment, memory, counts
        self.reports = reports
        self.runs: dict[str, Run] = {}

    def find(self, records: Sequence[Record], trusting: bool = False) -> Sequence[Record]:
        """Find the runs of these records; returns those that may lack something.

        Args:
            records: what MLflow should have.
            trusting: look up those alone that the memory does not know as sent, if they are few and it has their runs.
        """
        if trusting:
            behind = [record for record in records if not self.memory.has(record)]
            if len(behind) <= FEW and all(self._recall(key_of(record)) for record in behind):
                return behind
        self.runs = self._search()
        self.memory.remember({key: run.info.run_id for key, run in self.runs.items()})
        return records

    def retire(self, records: Sequence[Record]) -> None:
        """Set the runs of rows aside that the reports of this runs folder no longer have; another's are left alone.

        Args:
            records: of all that the folder has.
            reports: that have a plan there.
        """
        here = {key_of(record) for record in records}
        gone = [key for key in {*self.runs, *self.memory.sent} - here if key.startswith("row/")]
        for key in gone:
            run = self.runs.get(key)
            if key in self.memory.sent or (run and key.split("/")[1] in self.reports and _cells(run) <= here):
                if run:
                    self.mlflow.set_tag(run.info.run_id, "kind", "superseded")
                    del self.runs[key]
                self.memory.forget(key)

    def _recall(self, key: str) -> bool:
        """Whether the memory's id leads to a run of this record."""
        from mlflow.exceptions import MlflowException

        if not (id := self.memory.runs.get(key)):
            return False
        try:
            run = self.mlflow.get_run(id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self.runs[key] = run
        return run.info.lifecycle_stage == "active" and _key(run) == key

    def _search(self) -> dict[str, Run]:
        """Our runs by kind and id. Of two (two machines with one server) the first that was made; the other yields."""
        pages: list[Run] = []
        token = None
        while token != "":
            page = self.mlflow.search_runs([self.experiment], max_results=1000, page_token=token)
            pages += page
            token = page.token or ""
        runs: dict[str, Run] = {}
        for run in sorted(pages, key=lambda run: (run.info.start_time, run.info.run_id)):
            key = _key(run)
            if key and runs.setdefault(key, run) is not run:
                self.mlflow.set_tag(run.info.run_id, "kind", "superseded")
        return runs

    def _id(self, key: str) -> str | None:
        """Id of the run of a record; None where it has none."""
        run = self.runs.get(key)
        return run.info.run_id if run else self.memory.runs.get(key)

    def bring_up_to_date(self, record: Record) -> None:
        """Send what the run of a record lacks. UserError where the record's folder cannot be read."""
        run, parent = self.runs.get(key_of(record)), self._id(record.parent)
        if run is None or not self.memory.has_content(record):
            self._send(record, record.content())
        elif parent and run.data.tags.get(PARENT) != parent:
            self.mlflow.set_tag(run.info.run_id, PARENT, parent)
        self.memory.keep(record)

    def _send(self, record: Record, content: Content) -> None:
        run = self.runs.get(key_of(record))
        if run is not None and _outdated(run, record, content):
            # MLflow never forgets a metric or a parameter: the old run steps aside
            self.mlflow.set_tag(run.info.run_id, "kind", "superseded")
            run = None
        tags = self._tags(record, content)
        if run is None:
            run = self._make(record, content, tags)
        self._values(run, record, content, tags)
        if content.points or self.memory.sending.get(record.id):
            self._points(run, record.id, content.points)
        self._files(run, content)
        if content.dataset and not (run.inputs and run.inputs.dataset_inputs):
            self._dataset(run, *content.dataset)
        if content.model and not (run.outputs and run.outputs.model_outputs):
            self._model(run, record, content)
        self._status(run, content)

    def _make(self, record: Record, content: Content, tags: Mapping[str, str]) -> Run:
        # the page shows end - start: let it be the seconds that the stages took, not the milliseconds of sending
        start = content.points[0][2] if content.points else round(1000 * (time.time() - content.seconds))
        if content.started:
            start = round(1000 * content.started)
        elif above := self.runs.get(record.parent):  # by time is the only order in which the page shows a tree
            # the latest stands first: so the first by name is the latest
            start = above.info.start_time + BELOW - self.counts["runs"] % BELOW
        first = {"kind": record.kind, ID_TAG[record.kind]: record.id, "mlflow.source.name": "tokenbridge"}
        first |= {key: value for key, value in tags.items() if len(value) <= SHORT}
        self.counts["runs"] += 1
        run = self.mlflow.create_run(self.experiment, start_time=start, tags=first, run_name=title_of(record))
        self.runs[key_of(record)] = run
        self.memory.remember({key_of(record): run.info.run_id})
        return run

    def _tags(self, record: Record, content: Content) -> dict[str, str]:
        """All tags that the run of a record should have."""
        tags = content.tags | {"kind": record.kind, "name": record.name} | self._links(record, content)
        return tags | ({"error": content.error} if content.error else {})

    def _values(self, run: Run, record: Record, content: Content, tags: Mapping[str, str]) -> None:
        """Tags, parameters and metrics that the run lacks or holds otherwise, in as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        for key in self._passed(run, content, tags):
            self.mlflow.delete_tag(run.info.run_id, key)
        renamed = run.data.tags.get("name") not in (None, record.name)  # another plan calls the cell by another name
        if renamed or run.info.run_name == record.name != title_of(record):  # or an older version sent all names
            self.mlflow.update_run(run.info.run_id, name=title_of(record))
        now, old = round(1000 * time.time()), run.data
        changed = [key for key, value in content.metrics.items() if not _same(value, old.metrics.get(key))]
        metrics = [Metric(key, content.metrics[key], now, 0) for key in changed]
        params = [Param(key, value) for key, value in content.params.items() if key not in old.params]
        words = [RunTag(key, value) for key, value in tags.items() if old.tags.get(key) != value]
        parts = (_parts(metrics, METRICS_PER_CALL), _parts(params, WORDS_PER_CALL), _parts(words, WORDS_PER_CALL))
        for some_metrics, some_params, some_tags in zip_longest(*parts, fillvalue=[]):
            self.mlflow.log_batch(run.info.run_id, some_metrics, some_params, some_tags, synchronous=True)
        self.counts.update(params=len(params), metrics=len(metrics))

    def _passed(self, run: Run, content: Content, tags: Collection[str]) -> list[str]:
        """Tags of a run that are no longer so: of an error, and of reports that samples of other programs have left."""
        gone = [key for key in run.data.tags if key.startswith(PASSING) and key not in tags]
        left = {views.member_tag(name) for name in self.reports} & run.data.tags.keys() - tags
        if not left or GIVEN not in content.params:  # nothing else leaves a report
            return gone
        return [*gone, *left, *(key for key in ("sweep", PARENT, NOTE) if key in run.data.tags and key not in tags)]

    def _links(self, record: Record, content: Content) -> dict[str, str]:
        """The tags that say under which run it lies, and its note with links to others."""
        note, page = content.note, f"#/experiments/{self.experiment}/runs"
        if training := self._id(f"training/{(stage := content.tags.get('stage.train'))}"):
            note = f"Curves: [{stage}]({page}/{training}/model-metrics?workflowType=machine_learning)"
        if content.view:
            key = views.view_key(record.id)
            save_view(self.mlflow, self.experiment, key, record.id, content.view)
            note = f"[Its runs, from the best to the worst]({views.page(self.experiment, key)})\n\n{note}"
        parent, sweep = self._id(record.parent), content.tags.get("sweep", "").partition(", ")[0]
        if parent and sweep and not content.view:
            link = f"{record.kind.capitalize()} of [{sweep}]({views.page(self.experiment, views.view_key(sweep))})"
            note = " · ".join(filter(None, [link, note]))
        return ({PARENT: parent} if parent else {}) | ({NOTE: note} if note else {})

    def _points(self, run: Run, id: str, points: list[list[Any]]) -> None:
        """The curves beyond the highest step that MLflow has.

        A resumed training writes steps again, with new times: a step that was sent is not sent twice.
        """
        from mlflow.entities import Metric

        # get_run, as the search may be minutes old; `metrics` of its data leaves the steps out
        data = self.mlflow.get_run(run.info.run_id).data.to_proto()
        last = {metric.key: metric.step for metric in data.metrics}
        lines = {(key, step): (key, value, ms, step) for key, value, ms, step in points}
        lines |= {(key, step): (key, value, ms, step) for key, value, ms, step in self.memory.sending.get(id, ())}
        news = sorted((line for line in lines.values() if line[3] > last.get(line[0], -1)), key=lambda line: line[3])
        for part in _parts(news, METRICS_PER_CALL):
            self.memory.sends(id, part)
            metrics = [Metric(key, value, ms, step) for key, value, ms, step in part]
            self.mlflow.log_batch(run.info.run_id, metrics=metrics, synchronous=True)
        if id in self.memory.sending:
            self.memory.sends(id, [])
        self.counts["points"] += len(news)

    def _files(self, run: Run, content: Content) -> None:
        if not content.files:
            return
        self.counts["artifacts"] += len(content.files)
        if folder := file_of(run.info.artifact_uri or ""):
            _write(content.files, folder)
            return
        with tempfile.TemporaryDirectory(prefix="tokenbridge-") as name:
            _write(content.files, Path(name))
            self.mlflow.log_artifacts(run.info.run_id, name)

    def _dataset(self, run: Run, name: str, hash: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        origin = json.dumps({"tags": {"mlflow.source.name": source}})
        dataset = Dataset(name=name, digest=hash, source_type="code", source=origin)
        context = InputTag("mlflow.data.context", "training")
        self.mlflow.log_inputs(run.info.run_id, [DatasetInput(dataset, [context])])

    def _model(self, run: Run, record: Record, content: Content) -> None:
        """The model that a training left, as one of MLflow's with its card; its weights stay in the runs folder.

        One that a kill left without its run is found again by it.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        id, mlflow = run.info.run_id, self.mlflow
        found = mlflow.search_logged_models([self.experiment], f"source_run_id = '{id}'", max_results=1)
        tags = content.model | {ID_TAG[record.kind]: record.id, EXTERNAL: "true"}
        name = record.name.translate(NOT_IN_A_MODEL_S_NAME)
        model = found[0] if found else mlflow.create_logged_model(self.experiment, name, id, tags, content.params)
        with tempfile.TemporaryDirectory(prefix="tokenbridge-") as folder:
            _write({"README.md": content.card.encode()}, Path(folder))
            mlflow.log_model_artifacts(model.model_id, folder)
        mlflow.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        mlflow.log_outputs(id, [LoggedModelOutput(model.model_id, step=0)])

    def _status(self, run: Run, content: Content) -> None:
        if content.status == "RUNNING":
            if run.info.status != "RUNNING":
                self.mlflow.update_run(run.info.run_id, "RUNNING")
            return
        end = run.info.start_time + round(1000 * content.seconds)
        if run.info.status != content.status:
            self.mlflow.set_terminated(run.info.run_id, content.status, end)


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _key(run: Run) -> str:
    """Key of the record that a run is of; empty where it is not ours or stepped aside."""
    kind = run.data.tags.get("kind", "")
    return f"{kind}/{run.data.tags.get(ID_TAG[kind])}" if kind in ID_TAG else ""


def _cells(run: Run) -> set[str]:
    """Keys of the cells of a row's run."""
    return {f"cell/{id}" for id in run.data.tags.get("cells", "").split(", ")}


def _outdated(run: Run, record: Record, content: Content) -> bool:
    """Whether a run holds what is no longer so: other stages of a cell, metrics that a stage made anew leaves out, a
    setting that the cells of a sweep or row no longer share, a metric that is no longer compared, a file that a report
    no longer has."""
    if record.kind == "report":
        return not {*filter(None, run.data.tags.get("files", "").split(", "))} <= content.files.keys()
    if record.kind in ("sweep", "row"):
        shared = all(content.params.get(key) == value for key, value in run.data.params.items())
        return not shared or not set(run.data.metrics) <= set(content.metrics)
    stages = {key: id for key, id in content.tags.items() if key.startswith("stage.")}
    ours = (key for key in run.data.metrics if f"stage.{key.split('/')[0]}" in stages)
    return any(run.data.tags.get(key, id) != id for key, id in stages.items()) or not set(ours) <= set(content.metrics)


def _same(value: float, stored: float | None) -> bool:
    if stored is None:
        return False
    if math.isnan(value):
        return math.isnan(stored)
    return value == stored or (math.isinf(value) and stored == math.copysign(STORED_INFINITY, value))


def _parts(items: Iterable[_Item], size: int) -> Iterable[list[_Item]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
