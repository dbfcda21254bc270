"""What dies or fails when a stage's work is done costs none of it: nothing is deleted before the stage is published."""

import os
import re
import resource
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.runner import run_stage
from tests.conftest import TINY
from tests.helpers.processes import start
from tokenbridge.autoencoders.sources import BODY_WEIGHTS
from tokenbridge.config import Runtime
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import CHECKPOINT, MANIFEST, NOTES, PARTIAL, Store, recorded
from tokenbridge.tokenizers.trained import TRAINED as TOKENIZER

RUNTIME = Runtime(threads=1)
PUBLISHED = ("os.rename", PARTIAL)
"""the rename that publishes a stage, as Python's audit hooks name it"""
OTHERS = {
    "autoencoder": [*TINY, "autoencoder.source=trained", "autoencoder.epochs=1"],
    "tokenizer": [*TINY, "quantizer.kind=vq", "quantizer.levels=8", "quantizer.epochs=1"],
}
"""settings of kinds of stages that the shared runs do not have"""


def written(name):
    return "open", f"{name}.tmp"


MOMENTS = {
    "latents": [written("checksums.json"), written(MANIFEST), PUBLISHED, ("shutil.rmtree", NOTES)],
    "train": [
        written("model.safetensors"),
        written("metrics.json"),
        written(MANIFEST),
        PUBLISHED,
        ("os.remove", CHECKPOINT),
    ],
    "sample": [written("metrics.json"), written(MANIFEST), PUBLISHED],
    "tokenizer": [
        written(TOKENIZER),
        written("metrics.json"),
        written(MANIFEST),
        PUBLISHED,
        ("os.remove", CHECKPOINT),
    ],
    "autoencoder": [
        written(BODY_WEIGHTS),
        written("metrics.json"),
        written(MANIFEST),
        PUBLISHED,
        ("os.remove", CHECKPOINT),
    ],
}
WORK = {
    "latents": "train_moments.npy",
    "train": CHECKPOINT,
    "sample": "samples.npy",
    "tokenizer": CHECKPOINT,
    "autoencoder": CHECKPOINT,
}
"""the file that holds a stage's work before it is published"""


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def filled(folder) -> None:
    """Leave no room on a folder's disk."""
    with open(folder / "ballast", "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def struck(config, _, root, __, kind, moment, fault):
    """Run a stage; at the moment, an event of Python and how the path ends that it is about, the fault happens."""
    told = set()

    def hook(event, arguments):
        if moment and event == moment[0] and str(arguments[0]).endswith(moment[1]) and not told:
            told.add(event)
            fault()

    sys.addaudithook(hook)
    stage = next(stage for stage in Cell("tiny", config, (kind,)).stages() if stage.kind.name == kind)
    run_stage(Store(root), stage, RUNTIME)


def run(store, settings, kind, moment, fault=killed):
    process = start({}, store.root, 1, settings, work=partial(struck, kind=kind, moment=moment, fault=fault))
    return process, *process.end()


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORK)
def test_killed_in_its_last_moments(kind, finished, tmp_path):
    """SIGKILL at each moment in turn, the next try going on from what the last left."""
    reference, store = finished[0], Store(tmp_path / "runs")
    settings = OTHERS.get(kind, TINY)
    id = next(stage.id for stage in Cell("x", override(DIGITS, settings), (kind,)).stages() if stage.kind.name == kind)
    if kind not in OTHERS:
        shutil.copytree(reference.root, store.root)
        shutil.rmtree(store.folder(id))
    stamps = set()
    for number, moment in enumerate(MOMENTS[kind]):
        process, code = run(store, settings, kind, moment)
        assert code == -signal.SIGKILL, process.complained(0)
        if kind == "train" and number:
            assert ", 36 steps in 2 epochs, from step 36, " in process.said(0)
        work = store.folder(id if store.finished(id) else f"{id}{PARTIAL}")
        stamps.add((work / WORK[kind]).stat().st_mtime_ns)
    assert len(stamps) == 1, "the work was done again"
    assert store.finished(id) == (moment != PUBLISHED)
    process, code = run(store, settings, kind, None)
    assert code == 0, process.complained(0)
    assert not {CHECKPOINT, NOTES} & {path.name for path in store.folder(id).iterdir()}
    if kind in OTHERS:
        return
    ours, theirs = (recorded(each.folder(id)) for each in (store, reference))
    apart = {"metrics.jsonl"}  # it holds times
    assert {k: v for k, v in ours.items() if k not in apart} == {k: v for k, v in theirs.items() if k not in apart}


@pytest.mark.slow
@pytest.mark.parametrize("moment", [written("model.safetensors"), written("metrics.json"), written(MANIFEST)])
def test_a_full_disk_at_the_end_of_a_training(moment, finished, disk):
    """Its last checkpoint stays; once there is room, the same command goes on after the last step."""
    store, id = Store(disk("64m")), next(s.id for s in finished[1].stages() if s.kind.name == "train")
    shutil.copytree(finished[0].root / "stages", store.root / "stages", dirs_exist_ok=True)
    shutil.rmtree(store.folder(id))
    process, code = run(store, TINY, "train", moment, partial(filled, store.root))
    assert code == 1
    if moment[1] != f"{MANIFEST}.tmp":  # which comes after the stage
        assert "train: all 36 steps are kept; the same command goes on after them\n" in process.complained(0)
    assert f"UserError: {store.root}: disk full while writing {id}; free space or choose" in process.complained(0)
    assert not store.finished(id)
    (store.root / "ballast").unlink()
    process, code = run(store, TINY, "train", None)
    assert code == 0, process.complained(0)
    assert ", from step 36, " in process.said(0)
    ours, theirs = (recorded(each.folder(id))["model.safetensors"] for each in (store, finished[0]))
    assert ours == theirs


def starved(more: int) -> None:
    """Let the process have so many bytes more than it has: what it asks for is refused from now on."""
    has = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (has + more, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "moment", "more", "remedy"),
    [
        ("quantizer", ("open", ".lock"), 0, "take fewer --jobs, or a machine with more of it"),
        ("train", ("open", ".lock"), 0, "set --accumulate (now 1) higher"),
        ("train", written("model.safetensors"), 2**20, "set --accumulate (now 1) higher"),
        ("likelihood", ("open", ".lock"), 0, "set --batch (now 256) lower"),
    ],
)
def test_out_of_memory(kind, moment, more, remedy, finished, tmp_path):
    """One line with the remedy, which takes no file for damaged that could not be read; what was done is kept."""
    reference, store = finished[0], Store(shutil.copytree(finished[0].root, tmp_path / "runs"))
    id = next(stage.id for stage in finished[1].stages() if stage.kind.name == kind)
    shutil.rmtree(store.folder(id))
    process, code = run(store, TINY, kind, moment, partial(starved, more))
    assert code == 1
    last = process.complained(0).splitlines()[-1]
    assert re.match(
        r"tokenbridge.config.UserError: out of memory \(.*(memory|Memory|could not create a primitive)", last
    ), process.complained(0)
    assert f"; {remedy}" in last
    assert "damaged" not in last
    assert not store.finished(id)
    process, code = run(store, TINY, kind, None)
    assert code == 0, process.complained(0)
    assert (kind == "train" and moment[1] != ".lock") == (", from step " in process.said(0))
    name = {"train": "model.safetensors", "quantizer": "quantizer.safetensors"}.get(kind, "metrics.json")
    assert recorded(store.folder(id))[name] == recorded(reference.folder(id))[name]
