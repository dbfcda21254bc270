"""Real processes encode one store together: each shard once, after a kill too."""

import time

import pytest

from tests.helpers.images import SHARD, make_images, start

SHARDS = ["test 0", "test 4", "train 0", "train 4", "train 8", "validation 0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images") / "all")


@pytest.fixture(scope="module")
def one(images, tmp_path_factory):
    """What one process encoded."""
    return encoded(images, tmp_path_factory.mktemp("one") / "out", 1)


def encoded(images, out, size):
    out.mkdir(exist_ok=True)
    group = start(images, out, size)
    assert group.end() == [0] * size, [group.complained(rank) for rank in range(size)]
    return out


def rows(out):
    return [line for path in sorted(out.parent.glob(f"{out.name}-*.rows")) for line in path.read_text().splitlines()]


def assert_same(ours, theirs):
    for name in ("train_moments.npy", "validation_moments.npy", "test_moments.npy", "stats.json", "checksums.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_two_processes_share_the_shards(one, images, tmp_path):
    out = encoded(images, tmp_path / "out", 2)
    assert sorted(rows(out)) == SHARDS
    assert all((tmp_path / f"out-{rank}.rows").read_text() for rank in (0, 1))
    assert_same(out, one)


@pytest.mark.slow
def test_a_killed_encoding_goes_on(one, images, tmp_path):
    (out := tmp_path / "out").mkdir()
    group = start(images, out, 1, seconds=0.3)
    notes = out / "shards" / "train_moments"
    while not (notes / "1.json").exists() and group.running():
        time.sleep(0.01)
    group.processes[0].kill()
    assert group.end() == [-9]
    done = {f"train {SHARD * int(path.stem)}" for path in notes.glob("*.json")}
    assert {"train 0", "train 4"} <= done
    (tmp_path / "out-0.rows").unlink()
    encoded(images, out, 2)
    assert sorted(rows(out)) == sorted(set(SHARDS) - done)
    assert_same(out, one)
