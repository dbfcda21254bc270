"""The command as a user meets it: bad input is one line (value, rule, remedy), exit code 2, nothing half-written."""

import shutil

import pytest
import torch
from PIL import Image

from tests.helpers.report_source import edit_frame, write_source
from tests.helpers.runs import with_database


def folder_of_images(path, classes, per_class=3, size=16):
    for name in classes:
        (path / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("L", (size, size), i * 20).save(path / name / f"{i}.png")
    return path


def refused(done, tmp_path, *parts):
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert "\n" not in line, line
    assert line.startswith("tokenbridge: ")
    for part in parts:
        assert part in line
    assert [path for path in tmp_path.glob("runs/stages/*")] == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["digit"], ["digit is no preset; did you mean digits?"]),
        (["digits", "quantizer.levels=1"], ["quantizer.levels=1 must be >= 2"]),
        (["digits", "quantizer.range=0"], ["quantizer.range=0 must be >= 1e-06"]),
        (["digits", "quantizer.levls=8"], ["did you mean quantizer.levels?"]),
        (["digits", "--device", "gpu"], ["device=gpu is no device; use auto, cpu or cuda"]),
        (["digits", "data.source=folder", "data.path=nowhere"], ["nowhere"]),
        (["imagenet256-L"], ["imagenet/train"]),
        (["digits", "--only", "train", "--only", "drain"], ["drain is no stage; stages are autoencoder, tokenizer"]),
    ],
)
def test_bad_settings(call, tmp_path, arguments, parts):
    refused(call("run", *arguments, "--only", "quantizer", cwd=tmp_path), tmp_path, *parts)


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_folders_without_classes(call, tmp_path, classes):
    images = folder_of_images(tmp_path / "images", classes)
    images.mkdir(exist_ok=True)
    done = call("run", "digits", "data.source=folder", f"data.path={images}", "data.classes=2", cwd=tmp_path)
    refused(done, tmp_path, "class")


def test_a_truncated_image(call, tmp_path):
    images = folder_of_images(tmp_path / "images", ("a", "b"), 5)
    whole = (images / "b" / "2.png").read_bytes()
    (images / "b" / "2.png").write_bytes(whole[: len(whole) // 2])
    words = ("data.source=folder", f"data.path={images}", "data.classes=2", "--only", "latents")
    refused(call("run", "digits", *words, cwd=tmp_path), tmp_path, "2.png")


@pytest.mark.parametrize(
    ("weight", "parts"),
    [
        (float("nan"), ("conv_in.weight of the autoencoder holds NaN", "get its weights again")),
        (3e38, ("latents of train images", "NaN", "must be finite")),
    ],
)
def test_an_autoencoder_that_gives_nan(call, tmp_path, weight, parts):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=2,
    )
    with torch.no_grad():
        model.encoder.conv_in.weight.fill_(weight)  # type: ignore[union-attr]
    model.save_pretrained(tmp_path / "autoencoder")
    source = ["autoencoder.source=diffusers", f"autoencoder.path={tmp_path / 'autoencoder'}"]
    done = call("run", "digits", *source, "--only", "quantizer", cwd=tmp_path)
    refused(done, tmp_path, *parts)


def test_runs_that_cannot_be_written(call, tmp_path):
    (tmp_path / "runs").write_text("a file")
    done = call("run", "digits", "--only", "latents", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "choose another folder with --runs" in done.stderr
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_report_that_is_not_there(call, tmp_path):
    done = call("report", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing is no report" in done.stderr


def test_every_report_is_built_again_from_its_source(call, tmp_path):
    for name, table in (("a", "1b"), ("b", "5")):
        write_source(tmp_path / "reports" / name, tables=(table,), examples=False)
    done = call("report", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pages = [tmp_path / "reports" / name / "index.html" for name in "ab"]
    old = [page.read_bytes() for page in pages]
    edit_frame(tmp_path / "reports" / "a", "±5", {"quantizer/mse": "many"}, "1b")
    pages[1].unlink()
    broken = call("report", "all", cwd=tmp_path)
    assert broken.returncode == 2
    assert broken.stderr.startswith("tokenbridge: a: frame.csv: quantizer/mse='many'")
    assert broken.stderr.count("\n") == 1
    assert [page.read_bytes() for page in pages] == old  # one is as it was, the other was built all the same


def test_any_cells_as_a_table(call, tmp_path):
    write_source(tmp_path / "reports" / "mine", tables=("1b",), examples=False)
    asked = ("report", "mine", "--rows", "quantizer.range", "--metric", "mse", "--where", "quantizer.kind=gaussian")
    assert "| quantizer.range = 5 |" in call(*asked, cwd=tmp_path).stdout
    for ending in ("md", "csv", "tex", "html"):
        assert call(*asked, "--out", f"out/table.{ending}", cwd=tmp_path).returncode == 0
        assert (tmp_path / "out" / f"table.{ending}").stat().st_size > 100
    for more, said in (
        (("--out", "table.pdf"), "--out table.pdf must end with .md, .csv, .tex, .html"),
        (("--columns", "head.kin"), "did you mean head.kind?"),
        (("--where", "quantizer.range=9"), "quantizer.range is "),
    ):
        wrong = call(*asked, *more, cwd=tmp_path)
        assert wrong.returncode == 2
        assert said in wrong.stderr
        assert wrong.stderr.count("\n") == 1
    assert "give --rows too" in call("report", "mine", "--metric", "mse", cwd=tmp_path).stderr
    assert not (tmp_path / "table.pdf").exists()


def test_a_report_may_be_called_like_its_table(call, tmp_path, no_figures):
    write_source(tmp_path / "reports" / "2a", tables=("2a",), examples=False)
    done = call("report", "2a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# ")
    assert "report: reports/2a/index.html" in done.stdout
    assert "grid is no report" in call("report", "2a", "--name", "grid", cwd=tmp_path).stderr


def test_run_sync_report_and_resume(call, tmp_path, with_latents, template):
    """A user's few commands on a real cell: run, run again, sync; a damaged file is named."""
    with_database(with_latents(tmp_path / "runs"), template / "mlflow.db")
    wanted = ["--only", "reconstruct", "quantizer.kind=lloyd-max", "quantizer.levels=8"]
    done = call("run", "digits", *wanted, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reconstruct/psnr" in done.stdout
    again = call("run", "digits", *wanted, cwd=tmp_path)
    assert "left" not in again.stdout
    assert "MLflow was up to date" in call("sync", cwd=tmp_path).stdout
    reconstruct = next((tmp_path / "runs" / "stages").glob("reconstruct-*"))
    shutil.rmtree(reconstruct)
    quantizer = next((tmp_path / "runs" / "stages").glob("quantizer-*")) / "quantizer.safetensors"
    quantizer.write_bytes(quantizer.read_bytes()[:50])
    damaged = call("run", "digits", *wanted, cwd=tmp_path)
    assert damaged.returncode == 2
    assert "quantizer.safetensors" in damaged.stderr
    assert not reconstruct.exists()
