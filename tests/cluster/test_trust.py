"""A cluster is this machine's alone, its printed line runs nothing; --trust-weights reaches the jobs."""

import json
import socket
import stat
import subprocess

from tests.cluster.conftest import SCRIPT, started
from tests.cluster.grids import end_of, grid, on_slurm, tokenbridge
from tests.helpers.scorers import write_dinov2


def listening(pid: str) -> list[str]:
    lines = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[3].rpartition(":")[0] for line in lines if f"pid={pid}," in line]


def test_a_cluster_in_a_folder_with_a_name_for_shells(tmp_path):
    (weights := tmp_path / "weights").mkdir()
    write_dinov2(weights)
    with started(nodes=1, prefix="lab;$(id>ran)&é") as folder:
        words = 'eval "$(bash "$0" up "$1")"; printf %s "$SLURM_CONF"'
        said = subprocess.run(["bash", "-c", words, SCRIPT, folder], cwd=tmp_path, capture_output=True, text=True)
        assert said.stdout == f"{folder}/slurm.conf"
        assert not (tmp_path / "ran").exists()
        pids = [path.read_text().strip() for path in (folder / "run").glob("*.pid")]
        places = [place for pid in pids for place in listening(pid)]
        assert len(places) == 3  # slurmctld, slurmdbd, slurmd
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            assert all(place.startswith("127.") for place in places), places
        modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("munge/munge.key", "mysql")}
        assert modes == {"munge/munge.key": 0o600, "mysql": 0o700}

        settings = ("score.features=dinov2", f"score.weights={weights}")
        words_of = grid("trust", "quantizer.levels=8", settings=settings)
        refused = tokenbridge(*words_of, *on_slurm(), cwd=tmp_path, code=2)
        assert "give --trust-weights where you trust who wrote it" in refused.stderr
        assert not list(tmp_path.glob("runs/sweeps/*"))
        tokenbridge(*words_of, "--trust-weights", *on_slurm(), cwd=tmp_path)
        shown = end_of(tmp_path, "trust")
        assert shown.returncode == 0, shown.stdout
        (score,) = tmp_path.glob("runs/stages/score-*/metrics.json")
        assert "fd_dinov2" in json.loads(score.read_text())["metrics"]
