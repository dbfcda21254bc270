import errno
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tokenbridge.config import UserError
from tokenbridge.distributed import ONE
from tokenbridge.store.artifacts import (
    Store,
    new_array,
    read_json,
    stage_id,
    write_atomic,
    write_json,
)
from tokenbridge.store.runs import Journal, read_journal
from tokenbridge.store.shards import Filling


def test_ids_depend_on_what_is_read_and_on_nothing_else():
    id = stage_id("train", 1, {"a": 1, "b": (2, 3)}, {"latents": "x"})
    assert id == stage_id("train", 1, {"b": [2, 3], "a": 1}, {"latents": "x"})
    others = [
        ("train", 2, {"a": 1, "b": (2, 3)}, {"latents": "x"}),
        ("train", 1, {"a": 2, "b": (2, 3)}, {"latents": "x"}),
    ]
    others.append(("train", 1, {"a": 1, "b": (2, 3)}, {"latents": "y"}))
    assert id not in {stage_id(*other) for other in others}


def test_a_folder_appears_whole_with_its_manifest(tmp_path):
    store = Store(tmp_path)
    with store.writing("x-1", {"kind": "x", "seed": 3}) as out:
        (out / "result").write_text("7")
        assert not store.finished("x-1")
        assert not store.folder("x-1").exists()
    assert store.finished("x-1")
    manifest = store.manifest("x-1")
    assert manifest["id"] == "x-1"
    assert manifest["seed"] == 3
    assert manifest["wall_seconds"] >= 0
    assert {"versions", "cpu", "git", "threads"} <= manifest.keys()
    with store.writing("x-1", {}) as again:
        assert again is None
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["x-1"]


@pytest.mark.parametrize("resumable", [False, True])
def test_what_fails_leaves_only_what_a_resumed_run_needs(tmp_path, resumable):
    store = Store(tmp_path)
    with pytest.raises(KeyError), store.writing("x-1", {}, resumable) as out:
        (out / "checkpoint").write_text("half")
        raise KeyError
    assert not store.finished("x-1")
    assert (tmp_path / "stages" / "x-1.partial").exists() == resumable
    with store.writing("x-1", {}, resumable) as out:
        assert (out / "checkpoint").exists() == resumable


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    store = Store(tmp_path)
    with (
        pytest.raises(UserError, match="disk full while writing x-1; free space or choose another folder with --runs"),
        store.writing("x-1", {}) as out,
    ):
        (out / "big").symlink_to("/dev/full")
        (out / "big").write_text("x")
    assert list((tmp_path / "stages").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with (
        pytest.raises(UserError, match=r"file.* cannot be written \(.*\); choose another folder with --runs"),
        Store(blocked).writing("x-1", {}),
    ):
        pass


def test_a_read_only_folder_is_one_line(tmp_path):
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from tokenbridge.store.artifacts import Store
        from tokenbridge.config import UserError
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write everywhere
        try:
            with Store(Path(sys.argv[1]) / "runs").writing("x-1", {}):
                pass
        except UserError as error:
            print(error)
    """)
    tmp_path.chmod(0o555)
    for parent in list(tmp_path.parents)[:3]:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot be written (Permission denied); choose another folder with --runs" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_two_processes_make_a_stage_once(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from tokenbridge.store.artifacts import Store
        with Store(Path(sys.argv[1])).writing("x-1", {}) as out:
            if out is not None:
                time.sleep(0.5)
                print("made")
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = "".join(process.communicate()[0] for process in racing)
    assert said.count("made\n") == 1
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert Store(tmp_path).finished("x-1")


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is not readable JSON .* delete its folder and run again"):
        read_json(tmp_path / "manifest.json")


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    (tmp_path / "a.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_forgets_what_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write(step, loss=step / 2)
    with open(path, "a") as file:
        file.write('["loss", 9.0, 17')  # cut by a kill
    assert [(key, value, step) for key, value, _, step in read_journal(path)] == [
        ("loss", 0.5, 1),
        ("loss", 1.0, 2),
        ("loss", 1.5, 3),
    ]
    Journal(path, before=3).write(3, loss=7.0)
    assert [line[1] for line in read_journal(path)] == [0.5, 1.0, 7.0]


WRITERS = {
    "array": lambda out: new_array(out / "a.npy", np.float32, (100_000,)),
    "numpy": lambda out: np.save(out / "a.npy", np.zeros(100_000)),
    "archive": lambda out: np.savez(out / "a.npz", a=np.zeros(100_000)),
    "weights": lambda out: write_atomic(out / "a.safetensors", save({"a": torch.zeros(100_000)})),
    "checkpoint": lambda out: torch.save({"a": torch.zeros(100_000)}, open(out / "a.pt", "wb")),  # noqa: SIM115
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file object that cannot flush
@pytest.mark.parametrize("writer", WRITERS)
def test_a_really_full_disk(disk, writer):
    store = Store(small_disk := disk("256k"))
    pattern = "disk full while writing x-1; free space or choose another folder with --runs"
    with pytest.raises(UserError, match=pattern), store.writing("x-1", {}) as out:
        WRITERS[writer](out)
    assert list((small_disk / "stages").iterdir()) == []


def test_an_array_that_there_is_no_room_for_leaves_nothing(disk):
    """A file of the right length whose blocks are not reserved would be a crash at its first page that finds none."""
    filling = Filling(disk("64k"), "a", (100_000,), np.float32, 10)
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            filling.begin(ONE)
        assert list(filling.folder.iterdir()) == []
    filling.path.write_bytes(b"")  # of an older version
    assert not filling._usable()


LIMITED = textwrap.dedent("""
    import errno, resource, sys
    from pathlib import Path
    import numpy as np
    from tests.helpers.refusal import refuse
    from tokenbridge.config import UserError
    from tokenbridge.store.artifacts import Store, new_array, write_array
    if sys.argv[1] == "quota":
        refuse(errno.EDQUOT, "fallocate")
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        with Store(Path(sys.argv[2])).writing("x-1", {}) as out:
            if sys.argv[1] == "quota":
                new_array(out / "a.npy", np.float32, (9,))
            else:
                write_array(out / "a.npy", np.zeros(9000))
    except UserError as error:
        print(error)
""")


@pytest.mark.parametrize(("what", "word"), [("quota", "quota reached"), ("limit", "file larger than its file system")])
def test_a_quota_and_a_limit_on_files_are_named(what, word, tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, what, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path}: {word}"), done.stdout
    assert list((tmp_path / "stages").iterdir()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_links_in_the_runs_folder(whole, tmp_path):
    """A link as the stages folder, or as a stage, is as good as what it leads to; one that leads to nothing is told."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "stages").symlink_to(tmp_path / "elsewhere" if whole else tmp_path / "nowhere")
    store = Store(tmp_path / "runs")
    if not whole:
        with pytest.raises(UserError, match=r"stages cannot be written \(File exists\)"), store.writing("x-1", {}):
            pass
        return
    with store.writing("x-1", {}) as out:
        (out / "result").write_text("1")
    store.folder("x-1").rename(moved := tmp_path / "moved")
    store.folder("x-1").symlink_to(moved)
    assert store.finished("x-1")
    with store.writing("x-1", {}, anew=True) as out:
        (out / "result").write_text("2")
    assert not store.folder("x-1").is_symlink()
    assert (moved / "result").read_text() == "1"  # what a link leads to is not ours to delete
    store.folder("x-2.partial").symlink_to(moved)
    with store.writing("x-2", {}) as out:
        (out / "other").write_text("3")
    assert sorted(path.name for path in store.folder("x-2").iterdir()) == ["manifest.json", "other"]
    assert sorted(path.name for path in store.root.glob("stages/*")) == ["x-1", "x-2"]
