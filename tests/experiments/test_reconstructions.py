"""The table of reconstructions on any images and autoencoder, and its LPIPS."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ttest_rel
from torchmetrics.functional.image import lpips as theirs
from torchvision.models import alexnet

from analysis.frame.source import read
from analysis.tables.fill import fill
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.reconstructions import cells
from tests.helpers.scorers import pictures, write_pictures
from tokenbridge.config import UserError
from tokenbridge.metrics.images import Lpips
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store, file_hash, read_json
from tokenbridge.store.runs import read_cell, read_images

GRID = {"levels": [4, 8], "range": [3.0, 5.0]}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """File of an AlexNet with random weights; its classifier, which LPIPS does not read, is left out."""
    path = tmp_path_factory.mktemp("network") / "alexnet.pth"
    torch.save({f"features.{key}": value for key, value in alexnet().features.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folder of two classes with four images each, 32 pixels, in colours."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for i in range(4):
            blocks = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(blocks).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A diffusers folder: 5 channels, 2 pixels a position."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    sizes = {"latent_channels": 5, "block_out_channels": (4, 4), "norm_num_groups": 2, "layers_per_block": 1}
    model = AutoencoderKL(down_block_types=down, up_block_types=up, mid_block_add_attention=False, **sizes)
    model.save_pretrained(folder := tmp_path_factory.mktemp("autoencoder"))
    return folder


def test_stages_are_those_of_other_runs():
    """So that what a grid on the digits has made is not made again."""
    continuous, *quantized = cells("digits", None, "digits", GRID, ())
    assert [cell.name for cell in quantized] == [f"gaussian-b{b}-r{r}" for r in ("3.0", "5.0") for b in (4, 8)]
    settings = [{"quantizer.levels": b, "quantizer.range": r} for r in (3, 5) for b in (4, 8)]
    for cell, own in zip((continuous, *quantized), [{"quantizer.kind": "identity"}, *settings], strict=True):
        other = Cell("x", override(DIGITS, own), ("reconstruct",))
        assert [stage.id for stage in cell.stages()] == [stage.id for stage in other.stages()]


@pytest.mark.slow
def test_photographs_and_a_diffusers_autoencoder(call, tmp_path, photographs, autoencoder, network):
    """At their own size, with the features of the autoencoder's encoder; and a report with pictures."""
    asked = ["--levels", "2,8", "--autoencoder", autoencoder, "--out", "out", "--threads", 1]
    done = call("reconstruct", photographs, f"score.lpips={network}", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, _, *lines = done.stdout[done.stdout.index("| quantizer") :].splitlines()
    titles = [title.strip() for title in head.strip("|").split("|")]
    assert titles[:5] == ["quantizer", "levels", "range", "bits/image", "PSNR, dB ↑"]
    assert {"SSIM ↑", "LPIPS (AlexNet) ↓", "effective bits, bits/image", "fd_autoencoder ↓"} < {*titles}
    assert all(line.count("|") == head.count("|") for line in lines[:3])
    with open(tmp_path / "out" / "reconstruction.csv") as file:
        continuous, coarse, fine = csv.DictReader(file)
    assert (continuous["quantizer"], coarse["levels"], fine["levels"]) == ("none", "2", "8")
    assert float(coarse["bits"]) == 16 * 16 * 5 * 1
    assert float(fine["bits"]) == 16 * 16 * 5 * 3
    assert 0 < float(coarse["effective_bits"]) < float(fine["effective_bits"]) < float(fine["bits"])
    for row in (continuous, coarse, fine):
        measured = {key for key, value in row.items() if value}
        assert {"psnr", "ssim", "lpips_alex", "lpips_alex_se", "fd_autoencoder"} <= measured
        assert not [key for key in row if key.startswith(("fd_digits", "is_", "kid"))]
        assert float(row["lpips_alex"]) > 0
    written = (tmp_path / "runs" / "stages").glob("reconstruct-*/metrics.json")
    assert {read_json(path)["protocol"]["lpips_weights"] for path in written} == {file_hash(network)[:12]}
    text = (tmp_path / "out" / "reconstruction.md").read_text()
    assert text in done.stdout
    assert "fd_autoencoder sees what the autoencoder's encoder sees, which favours what it has decoded" in text
    assert "8 images of 32 pixels" in text
    assert "No LPIPS" not in text
    kinds = [path.name.partition("-")[0] for path in (tmp_path / "runs" / "stages").iterdir()]
    assert sorted(kinds) == ["latents", *["quantizer"] * 3, *["reconstruct"] * 3]
    report = tmp_path / "reports" / "reconstruct"
    assert done.stdout.splitlines()[-1] == "report: reports/reconstruct/index.html"
    for name in ("figure-6-reconstructions", "figure-5-patches", "quality-bits"):
        assert (report / "figures" / f"{name}.png").stat().st_size > 1000
    table = list(csv.DictReader((report / "tables" / "table-reconstruct.csv").read_text().splitlines()))
    assert [row["label"] for row in table] == ["continuous", "B=2", "B=8"]
    plan = read_json(report / "source" / "plan.json")
    recorded = {row["label"]: read_cell(Store(tmp_path / "runs"), row["cell"]) for row in plan["rows"]}
    for row, label in ((continuous, "continuous"), (coarse, "B=2")):
        with np.load(tmp_path / "runs" / "stages" / recorded[label].stages["reconstruct"] / "examples.npz") as shown:
            assert shown["labels"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
            errors = ((shown["reconstructed"].astype(float) - shown["original"]) ** 2).mean((1, 2, 3))
        assert float(row["psnr"]) == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=1e-6)
    assert "Quantizing costs: PSNR" in (report / "report.md").read_text()
    assert "tokenbridge reconstruct" in (report / "report.md").read_text()


@pytest.mark.slow
def test_images_without_classes_at_the_size_of_their_autoencoders_card(call, tmp_path, autoencoder):
    """Three images are too few for distances; the card's size is the autoencoder's, not theirs."""
    own = shutil.copytree(autoencoder, tmp_path / "own")
    (own / "card.json").write_text('{"image_size": 16}')
    write_pictures(tmp_path / "flat", pictures(3, size=40))
    asked = ["--levels", "4", "--range", "2,5", "--autoencoder", "own", "--name", "mine", "--threads", 1]
    done = call("reconstruct", "flat", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data.path: 3 images without class folders: one class" in done.stdout
    assert "images of 40 pixels on the shorter side are scaled and cropped to 16×16 (data.image_size)" in done.stdout
    assert "3 images of 16 pixels" in done.stdout
    table = (tmp_path / "reports" / "mine" / "tables" / "table-reconstruct.csv").read_text().splitlines()
    assert [row["label"] for row in csv.DictReader(table)] == ["continuous", "B=4, ±2", "B=4, ±5"]
    assert (tmp_path / "reports" / "mine" / "figures" / "figure-6-reconstructions.png").exists()


@pytest.mark.slow
def test_verdicts_of_reconstructions_are_paired_over_images(call, tmp_path):
    """As SciPy's paired test over the 359 test images; images vary far more than what quantizing costs them."""
    done = call("reconstruct", "digits", "--levels", "4,64", "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source = read(tmp_path / "reports" / "reconstruct" / "source")
    values = {}
    for row in source.plan["rows"]:
        stage = read_cell(Store(tmp_path / "runs"), row["cell"]).stages["reconstruct"]
        values[row["label"]] = read_images(tmp_path / "runs" / "stages" / stage)["psnr"]
    filled = fill(source.of_reconstructions, source)
    number = [column.key for column in filled.measured].index("reconstruct/psnr")
    for row in filled.rows[1:]:
        entry, expected = row.measured[number], ttest_rel(values[row.label], values["continuous"])
        assert entry.word == "worse"
        assert entry.comparison.p == pytest.approx(expected.pvalue, rel=1e-4)
    assert [row.label for row in filled.rows] == ["continuous", "B=4", "B=64"]


def test_lpips_is_that_of_the_paper(network):
    """Equation 1: squared differences of unit features, weighted by channel, averaged over positions, summed."""
    images = torch.randint(0, 256, (2, 3, 3, 41, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    ours = Lpips(network, 37)(*images)
    layers = alexnet().features
    layers.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(network).items()})
    linear = torch.load(theirs.__file__.replace("lpips.py", "lpips_models/alex.pth"), map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = [(pair / 127.5 - 1 - shift[:, None, None]) / scale[:, None, None] for pair in images]
    expected, seen = torch.zeros(3), 0
    with torch.no_grad():
        for layer in layers[:-1]:  # the last only pools
            x = [layer(each) for each in x]
            if isinstance(layer, torch.nn.ReLU):
                units = [each / each.norm(dim=1, keepdim=True) for each in x]
                weight = linear[f"lin{seen}.model.1.weight"]
                expected += (weight * (units[0] - units[1]) ** 2).sum(1).mean((1, 2))
                seen += 1
    assert seen == 5
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
    assert float(Lpips(network, 37)(images[0], images[0]).abs().max()) == 0
    grey = images[:, :, :1]
    torch.testing.assert_close(Lpips(network, 37)(*grey), Lpips(network, 37)(*grey.expand(-1, -1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("content", "size", "said"),
    [
        (None, 64, "must be a file; name torchvision's vgg16-397923af.pth or alexnet-owt-7be5be79.pth"),
        ({"x": torch.zeros(3)}, 64, "must hold a network's state"),
        ({"features.0.weight": torch.zeros(64, 3, 11, 11)}, 64, "must hold exactly the weights of Alexnet"),
        ("alexnet", 16, "data.image_size=16 is too small for lpips_alex; leave score.lpips out"),
    ],
)
def test_other_files_are_no_lpips(tmp_path, network, content, size, said):
    path = network if content == "alexnet" else tmp_path / "weights.pth"
    if isinstance(content, dict):
        torch.save(content, path)
    with pytest.raises(UserError) as refused:
        Lpips(path, size)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere must be a folder of images, with one sub-folder per class or none, or digits"),
        (["one"], "one must hold one sub-folder per class, at least 2"),
        (["digits", "--autoencoder", "kl.ckpt"], "--autoencoder kl.ckpt must be digits, a diffusers folder or an LDM"),
        (["digits", "--train", "one"], "--train one goes with a folder of images"),
        (["digits", "--levels", "8,16,8"], "--levels has 8 twice; give each value once"),
        (["digits", "--range", "5,5.0"], "--range has 5.0 twice; give each value once"),
        (["digits", "--levels", "1"], "quantizer.levels=1 must be >= 2"),
        (["digits", "score.lpips=none.pth"], "score.lpips=none.pth must be a file"),
        (["digits", "--out", "file"], "file cannot be written (File exists); choose another folder with --out"),
        (["digits", "--name", "a/b"], "a/b"),
    ],
)
def test_what_cannot_be_reconstructed(call, tmp_path, arguments, said):
    (tmp_path / "one" / "class").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    done = call("reconstruct", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "stages").exists()
