"""Identity of images is what they hold, whatever their names, sizes and times."""

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments import pipeline
from tokenbridge.config import Data, Score, UserError
from tokenbridge.data import contents, files
from tokenbridge.metrics.reference_files import fingerprint as reference_fingerprint
from tokenbridge.stages import _image_hash


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of four uncompressed images, all of one size; files count as settled at once."""
    monkeypatch.setenv("TOKENBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    for name in ("ant", "bee"):
        write(tmp_path / "images" / name, range(4))
    time.sleep(0.02)
    return tmp_path / "images"


def write(folder: Path, greys: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, grey in enumerate(greys):
        Image.new("L", (8, 8), grey).save(folder / f"{i}{('.pgm', '.ppm', '.bmp', '.tif')[i]}")


def identity(root: Path) -> str:
    return files.fingerprint(Data(source="folder", path=str(root), classes=2, image_size=8))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each file that is read for its hash."""
    paths: list[Path] = []
    digest = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda path: paths.append(path) or digest(path))
    return paths


def test_a_file_is_read_once(root, reads):
    first = identity(root)
    assert len(reads) == 8
    assert identity(root) == first
    assert len(reads) == 8
    write(root / "ant", range(100, 101))
    assert identity(root) != first
    assert len(reads) == 9


def test_images_replaced_with_names_sizes_and_times_kept(root, reads):
    before, reference = identity(root), reference_fingerprint(Score(reference=str(root)))
    path = root / "bee" / "2.bmp"
    times, size = (path.stat().st_atime_ns, path.stat().st_mtime_ns), path.stat().st_size
    Image.new("L", (8, 8), 200).save(path)
    os.utime(path, ns=times)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, times[1])
    assert identity(root) != before
    assert reference_fingerprint(Score(reference=str(root))) != reference
    Image.new("L", (8, 8), 2).save(path)
    assert identity(root) == before  # of contents alone


def test_a_name_counts_and_the_place_does_not(root):
    before = identity(root)
    moved = root.rename(root.with_name("moved"))
    assert identity(moved) == before
    (moved / "ant" / "0.pgm").rename(moved / "ant" / "9.pgm")
    assert identity(moved) != before


def test_a_file_that_has_just_changed_is_not_remembered(root, reads, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED_NS", 10**18)
    identity(root)
    identity(root)
    assert len(reads) == 16


def test_everything_is_read_again_on_demand(root, reads, monkeypatch):
    monkeypatch.setattr(contents, "_checking", False)
    first = identity(root)
    contents.check_all()
    assert identity(root) == first
    assert identity(root) == first
    assert len(reads) == 16


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", "method", None])
def test_a_lost_or_damaged_memory_costs_reading_alone(root, reads, damage):
    first = identity(root)
    for place in (root.parent / "cache" / "contents").iterdir():
        if damage == "method":  # of compression: one bit of the zip file
            content = bytearray(place.read_bytes())
            content[8] ^= 4
            content[content.rindex(b"PK\x01\x02") + 10] ^= 4
            content[content.index(b"PK\x01\x02") + 10] ^= 4
            damage = bytes(content)
        place.unlink() if damage is None else place.write_bytes(damage)
    assert identity(root) == first
    assert len(reads) == 16


def test_a_cache_that_cannot_be_written_is_said(root, monkeypatch, capsys):
    (root.parent / "file").write_text("")
    monkeypatch.setenv("TOKENBRIDGE_CACHE", str(root.parent / "file"))
    first = identity(root)
    assert "each command reads all images; TOKENBRIDGE_CACHE names another folder" in capsys.readouterr().err
    assert identity(root) == first


def test_an_image_that_cannot_be_read(root, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root reads all files
    with pytest.raises(UserError, match=r"0\.pgm cannot be read \(Permission denied\); mend its rights or delete it"):
        identity(root)


def test_a_second_run_takes_no_old_latents(root, call, tmp_path):
    """After images were replaced, names and sizes kept, PSNR is what a fresh folder of runs reads."""

    def psnr(runs: str) -> float:
        _image_hash.cache_clear()
        pipeline._IDS.clear()  # another process
        settings = ("data.source=folder", f"data.path={root}", "data.classes=2", "data.image_size=16", "train.batch=2")
        done = call("run", "digits", *settings, "--only", "reconstruct", "--runs", tmp_path / runs, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return float(next(line.split()[1] for line in done.stdout.splitlines() if "reconstruct/psnr " in line))

    before = psnr("runs")
    for name in ("ant", "bee"):
        write(root / name, range(120, 124))
    assert psnr("runs") == psnr("fresh") != before


def test_the_option_reads_everything_again(root, call, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_checking", False)
    settings = ("data.source=folder", f"data.path={root}", "data.classes=2", "data.image_size=16", "train.batch=2")
    for option, count in (((), 8), ((), 8), (("--check-data",), 16)):
        _image_hash.cache_clear()
        pipeline._IDS.clear()  # another process
        words = ("--only", "latents", "--runs", tmp_path / "runs", *option)
        assert call("run", "digits", *settings, *words, cwd=tmp_path).returncode == 0
        assert len(reads) == count
