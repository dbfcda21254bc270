"""A file of resources that fits what Slurm tells of a cluster. On a real one: tests/cluster/test_survey.py."""

import pytest

from slurm import resources, scheduler, survey
from tokenbridge.config import UserError

SINFO = """\
batch*|up|2-00:00:00|40|128|515000|(null)
a100|up|1-00:00:00|6|64|1031000|gpu:a100:4(S:0-1)
a100|up|1-00:00:00|2|64+|515000+|gpu:a100:8(S:0-1),nvme:1
debug|up|10:00|2|64|256000|(null)
old|down|infinite|100|16|64000|gpu:2
tiny|up|infinite|1|2|900|gpu:2
"""


def test_partitions_as_sinfo_prints_them():
    found = {each.name: each for each in survey.parse(SINFO)}
    assert list(found) == ["batch", "a100", "debug", "tiny"], "the default first, then the larger; old is down"
    assert (found["batch"].default, found["batch"].minutes, found["batch"].gpus) == (True, 2880, 0)
    assert (found["a100"].gpus, found["a100"].nodes, found["a100"].memory) == (8, 2, 515_000)
    assert (found["debug"].minutes, found["tiny"].minutes) == (10, survey.NO_LIMIT)


@pytest.mark.parametrize(
    ("wanted", "all_of", "train", "next_of"),
    [
        (None, ("a100", 1, 8, 120), 480, ("batch", 0, 2, 30)),
        ("debug", ("debug", 0, 8, 10), 10, ("debug", 0, 2, 10)),
        ("tiny", ("tiny", 1, 1, 120), 480, ("tiny", 0, 2, 30)),
    ],
)
def test_the_file_fits_and_is_read(tmp_path, wanted, all_of, train, next_of):
    found = survey.parse(SINFO)
    path = tmp_path / "cluster.toml"
    path.write_text(survey.text_of(found, wanted, "lab"))
    cluster = resources.read(path)

    def told(kind):
        asked = cluster.of(kind)
        return asked.partition, asked.gpus, asked.cpus, asked.minutes

    assert told("all") == all_of
    assert cluster.of("train").minutes == train
    assert told("next") == next_of
    assert cluster.of("sample").account == "lab"
    for kind in ("all", "train", "next", "quantizer"):
        node = next(each for each in found if each.name == cluster.of(kind).partition)
        memory = cluster.of(kind).memory
        assert int(memory[:-1]) * {"G": 1000, "M": 1}[memory[-1]] <= node.memory
        assert cluster.of(kind).cpus <= node.cpus
        assert cluster.of(kind).minutes <= node.minutes


def test_what_cannot_be_chosen_is_named():
    with pytest.raises(UserError, match="no partition of this cluster is up"):
        survey.text_of(survey.parse("old|down|infinite|100|16|64000|gpu:2\n"), None, "")
    with pytest.raises(UserError, match=r"--partition=bacht is no partition that is up; did you mean batch\?"):
        survey.text_of(survey.parse(SINFO), "bacht", "")


def test_without_slurm_it_is_one_line_and_no_file(call, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("cluster", "init", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tokenbridge: sbatch, squeue, scontrol not found on PATH: this machine has no Slurm client\n"
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out", "there.toml"], "there.toml is there already; give --force to write over it, or --out another name"),
        (["--out", "cluster.txt"], "--out cluster.txt must end in .toml"),
    ],
)
def test_no_file_is_written_over_and_none_of_another_kind(call, tmp_path, words, line):
    (tmp_path / "there.toml").write_text("mine")
    done = call("cluster", "init", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"tokenbridge: {line}\n")
    assert (tmp_path / "there.toml").read_text() == "mine"


def test_an_account_that_nobody_tells_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scheduler.default_account() == ""
