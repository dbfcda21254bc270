"""Files with the resources of jobs: what is read, what is refused, what submitit and sbatch are told."""

import subprocess
from pathlib import Path

import pytest
from submitit import AutoExecutor
from submitit.slurm.slurm import SlurmExecutor

from slurm import resources
from slurm.resources import OURS, SHIPPED, Resources
from tokenbridge.config import UserError
from tokenbridge.overrides import build
from tokenbridge.stages import STAGES


def written(folder: Path, text: str) -> Path:
    (folder / "cluster.toml").write_text(text)
    return folder / "cluster.toml"


def sbatch_lines(own: Resources, folder: Path, monkeypatch) -> list[str]:
    """What submitit would hand to sbatch."""
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 1))  # it asks for srun on PATH
    executor = AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=own.requeues)
    executor.update_parameters(**own.parameters())
    array = {**executor._executor.parameters, "map_count": 9}
    executor._executor.parameters = array
    return executor._executor._make_submission_file_text("program", "uid").splitlines()


def test_tables_of_kinds_change_those_of_all(tmp_path, monkeypatch):
    path = written(tmp_path, '[all]\ncpus = 3\ntime = "1:30"\n[train]\ngpus = 2\ncpus = 5\nextra = {exclude = "n1"}\n')
    cluster = resources.read(path)
    assert cluster.path == path
    assert (cluster.of("train").gpus, cluster.of("train").cpus, cluster.of("train").minutes) == (2, 5, 2)
    assert cluster.of("sample") == Resources(cpus=3, time="1:30")
    monkeypatch.chdir(tmp_path)
    assert resources.read() == cluster
    assert resources.read(written(tmp_path, "")).of("score") == Resources()


def test_shipped_files_can_be_read_by_name(monkeypatch, tmp_path):
    for path in SHIPPED.glob("*.toml"):
        cluster = resources.read(path.stem)
        assert cluster.path == path
        for kind in (*STAGES, "next"):
            assert sbatch_lines(cluster.of(kind), tmp_path, monkeypatch)
    train = resources.read("example").of("train")
    assert (train.ranks, train.devices) == (8, 8)
    assert train.about == "2 nodes, 4 processes a node, 8 GPUs, 8 CPUs, 128G memory, 480 min at most on gpu"


def test_example_shows_every_setting():
    text = (SHIPPED / "example.toml").read_text()
    assert [name for name in Resources.model_fields if f"{name} = " not in text and f".{name}]" not in text] == []


def test_sbatch_gets_every_setting(monkeypatch, tmp_path):
    own = Resources(
        partition="low", account="me", qos="high", constraint="a100|h100", nodes=2, processes=3, gpus=4, cpus=5,
        memory="7G", time="1-02:30:00", parallel=8, signal_seconds=77, setup=("module load cuda", "ulimit -c 0"),
        extra={"mail_type": "FAIL", "exclusive": True, "contiguous": False},
    )  # fmt: skip
    lines = sbatch_lines(own, tmp_path, monkeypatch)
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "partition=low", "account=me", "qos=high", "constraint='a100|h100'", "nodes=2", "ntasks-per-node=3",
        "gpus-per-node=4", "cpus-per-task=5", "mem=7G", "time=1590", "array=0-8%8", "signal=USR2@77", "requeue",
        "mail-type=FAIL", "exclusive",
    }  # fmt: skip
    assert not [option for option in options if "contiguous" in option]
    assert lines.index("module load cuda") + 1 == lines.index("ulimit -c 0")
    assert "--kill-on-bad-exit=1 --cpus-per-task=5 program" in "\n".join(lines[-3:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[all]\ncpu = 4", "cpu is no setting; did you mean cpus?"),
        ("[trian]\ncpus = 4", "trian is no table of resources; did you mean [train]?"),
        ("cpus = 4", "cpus is no table of resources; tables are all, autoencoder"),
        ("[all]\ncpus = 0", "cpus=0 must be >= 1"),
        ("[all]\ntime = 0", "time=0 must be minutes above 0, or Slurm's hours:minutes:seconds"),
        ('[all]\ntime = "2h"', "time='2h' must be minutes above 0, or Slurm's hours:minutes:seconds"),
        ('[all]\ntime = "00:00"', "time='00:00' must be minutes above 0"),
        ("[all]\ntime = 1.5", "time=1.5 must be minutes above 0"),
        ('[all]\nmemory = "8 GB"', "memory='8 GB' must be a whole number and K, M, G or T"),
        ("[all]\ntime = 120\nsignal_seconds = 1800", "signal_seconds=1800 must be at most 1320 with time=120"),
        ("[all]\ntime = 15\nsignal_seconds = 481", "signal_seconds=481 must be at most 480 with time=15"),
        ("[all]\ntime = 1\nsignal_seconds = 60", "signal_seconds=60 must be less than time=1, which is 60 s"),
        ("[all.extra]\ntime = 3", "extra.time must be left out: it has a setting of its own, time"),
        ("[all.extra]\ncpus_per_task = 3", "extra.cpus-per-task must be left out: it has a setting of its own, cpus"),
        ('[train.extra]\ndependency = "afterok:1"', "extra.dependency must be left out: a sweep sets it"),
        ("[all]\nworkers = 2\n[train]\npack = 2", "workers=2 must be at most pack=1, the stages that a job has"),
        ("[all]\npack = 0", "pack=0 must be >= 1"),
        ("[all]\npack = 4\n[train]\nprocesses = 2", "pack=4 must be 1 where 2 processes share each stage; write pack"),
        ("[all]\ncpus =", "must be a TOML file: Invalid value"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_file(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        resources.read(path)
    assert str(error.value).startswith(f"{path}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_file_tells_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nope is neither a file with resources nor one of example, local-slurm"):
        resources.read("nope")
    with pytest.raises(UserError, match=r"cluster.toml must be in the working directory.*copy .*example.toml"):
        resources.read()


def test_options_that_a_sweep_sets_have_no_field():
    assert not set(OURS) & set(resources.FIELDS)
    with pytest.raises(UserError, match="array"):
        build(Resources, {"extra": {"array": "0-1"}})


def test_cluster_script_explains_itself_and_what_it_cannot_do(tmp_path):
    script = Path(resources.__file__).parent / "cluster.sh"

    def run(*words: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(["/bin/bash", script, *words], capture_output=True, text=True, env=environment or None)
        return done.returncode, done.stderr

    assert run()[0] == 2
    assert "cluster.sh down DIR" in run()[1]
    assert run("up", str(tmp_path), "0") == (2, "cluster.sh: 0 must be a number from 1 to 999\n")
