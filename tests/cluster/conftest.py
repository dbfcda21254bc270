"""A real Slurm on this machine, with accounting and without, started and stopped by slurm/cluster.sh."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import slurm
from slurm import scheduler
from tests.helpers.machine import missing

SCRIPT = Path(slurm.__file__).parent / "cluster.sh"
ONCE = dict(MIN_JOB_AGE="3600", KILL_INVALID_DEPEND="0")  # as on a cluster that does not cancel by itself


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@contextmanager
def started(nodes: int = 3, cpus: int = 2, prefix: str = "lab", **environment: str) -> Iterator[Path]:
    """Folder of a cluster of its own, which SLURM_CONF names meanwhile. In /tmp: sockets need short paths."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    up = subprocess.run(
        ["bash", SCRIPT, "up", folder, str(nodes), str(cpus)],
        env=os.environ | ONCE | environment, capture_output=True, text=True,
    )  # fmt: skip
    if up.returncode == 2:
        shutil.rmtree(folder)
        missing(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        scheduler._config.cache_clear()
        try:
            yield folder
        finally:
            subprocess.run(["bash", SCRIPT, "down", folder], check=True)
            shutil.rmtree(folder)
            scheduler._config.cache_clear()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """With accounting."""
    with started() as folder:
        yield folder


@pytest.fixture(scope="module")
def plain_cluster() -> Iterator[Path]:
    """Without accounting, where sacct fails."""
    with started(ACCOUNTING="0") as folder:
        yield folder
