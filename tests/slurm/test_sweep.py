"""The jobs of sweeps: registered by several processes at once."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from slurm import sweep as module
from slurm.sweep import Job
from tokenbridge.store.artifacts import Store


def job(stage: str, number: int) -> Job:
    return Job(stage, f"{number}", "mine", "sweeps/mine/jobs/1", 0.0)


def _register(root):
    for number in range(50):
        module.register(Store(root), [job("train-2", number), job("latents-1", number)])


def test_several_processes_write_at_once(tmp_path):
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(_register, [tmp_path] * 3))
    assert {stage: len(found) for stage, found in module.jobs_by_stage(Store(tmp_path)).items()} == {
        "train-2": 150,
        "latents-1": 150,
    }
