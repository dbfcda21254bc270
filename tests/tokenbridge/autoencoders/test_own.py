"""Autoencoders of own images: their training by the command, what it says of them, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from tests.helpers.scorers import pictures, write_pictures
from tokenbridge.autoencoders import train as training
from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.sources import load_autoencoder
from tokenbridge.config import Autoencoder, Data
from tokenbridge.data.images import load, stack
from tokenbridge.metrics.autoencoder_quality import cautions


@pytest.mark.slow
def test_an_own_autoencoder_is_trained_and_runs(call, tmp_path):
    """On patches of two photographs: it learns, and a run takes it as it is printed."""
    for name in ("china", "flower"):
        photograph = load_sample_image(f"{name}.jpg")[:416:2, :640:2]  # (208, 320, 3)
        patches = photograph.reshape(13, 16, 20, 16, 3).transpose(0, 2, 4, 1, 3)
        write_pictures(tmp_path / "images" / name, patches.reshape(-1, 3, 16, 16))
    words = ["--epochs", "10", "--size", "16", "--stride", "4", "--out", "one"]
    done = call("train-autoencoder", "images", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    assert card["quality"]["images"] == 104
    assert card["quality"]["psnr_db"] > 14  # one grey for all reads 9.5, one colour for each patch 18.4
    settings = done.stdout.splitlines()[-1].partition(": ")[2].split()
    run = call("run", "digits", "data.source=folder", "data.path=images", "data.classes=2", *settings, "--only",
               "reconstruct", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "reconstruct/psnr" in run.stdout


@pytest.mark.slow
def test_an_own_autoencoder_of_grey_images_and_its_quality_in_parts(call, tmp_path, monkeypatch):
    for label, name in enumerate("ab"):
        write_pictures(tmp_path / "images" / name, pictures(50, label, 8))
    words = ["--epochs", "1", "--size", "8", "--stride", "2", "--channels", "2", "--grey", "--out", "one"]
    qualities = []
    for pixels in (training.PIXELS, 8 * 8 * 5):
        monkeypatch.setattr(training, "PIXELS", pixels)
        done = call("train-autoencoder", "images", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        qualities.append(json.loads((tmp_path / "one" / "card.json").read_text())["quality"])
    assert qualities[1]["images"] == qualities[0]["images"] == 20
    assert qualities[1]["psnr_db"] == pytest.approx(qualities[0]["psnr_db"], abs=0.02)
    frozen = load_autoencoder(Autoencoder(source="diffusers", path=str(tmp_path / "one"), channels=2, stride=2))
    assert frozen.image_channels == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images", "--stride", "6"], "--stride 6 must be a power of two from 2 to 32"),
        (["images", "--stride", "16", "--size", "24"], "that divides the image size, 24"),
        (["images", "--stride", "32"], "images of 16 pixels must have 32 at least; give the size"),
        (["images", "--stride", "0"], "--stride 0 must be a power of two"),
        (["images", "--stride", "0", "--size", "16"], "--stride 0 must be a power of two"),
        (["--size", "64", "--grey"], "--size, --grey goes with a folder of images; name it first"),
        (
            ["nowhere"],
            "nowhere must be a folder of images, with one sub-folder per class or none, or the name of a set",
        ),
        (["few"], "few holds 7 images and must hold 8 at least; add some"),
        (["images", "--out", "file"], "file cannot be written (File exists); choose another folder with --out"),
        (["images", "--out", "images"], "--out images lies in the folder of images, images; give one beside it"),
        (["images", "--out", "images/own"], "--out images/own lies in the folder of images"),
        (["images", "--device", "gpu"], "device=gpu is no device"),
        (["lost"], "lost/a.png cannot be read as an image"),
        (
            ["deep"],
            "deep must hold one sub-folder per class, at least 2, or images alone, and holds 1; give deep/a itself",
        ),
    ],
)
def test_an_own_autoencoder_that_cannot_be(call, tmp_path, words, message):
    for name in "ab":
        write_pictures(tmp_path / "images" / name, pictures(5))
    write_pictures(tmp_path / "few", pictures(7))
    (tmp_path / "file").write_text("")
    write_pictures(tmp_path / "deep" / "a", pictures(9))
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "a.png").write_text("none")
    words = words if "--out" in words else [*words, "--out", "own"]
    done = call("train-autoencoder", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "own").exists()


def test_eight_photographs_train_an_autoencoder_and_its_command_says_what_it_is_worth(call, tmp_path):
    """In colours without being told; two steps make none that is of use, and that is said."""
    write_pictures(tmp_path / "flat", pictures(8, size=18))
    done = call("train-autoencoder", "flat", "--epochs", 2, "--channels", 1, "--out", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flat: 8 images, in colours, of 18 pixels on the shorter side, scaled and cropped to 16×16" in done.stdout
    assert "4×4 positions of 1 channels for 16×16 colour" in done.stdout
    assert (
        "train-autoencoder: reconstructions are worse than images averaged" in done.stderr or "no latent" in done.stderr
    )
    card = json.loads((tmp_path / "own" / "card.json").read_text())
    assert (card["batch"], card["train_images"], card["image_channels"], card["stride"]) == (5, 5, 3, 4)
    settings = done.stdout.splitlines()[-1].partition(": ")[2].split()
    assert settings[2:] == [
        "autoencoder.channels=1",
        "autoencoder.stride=4",
        "data.image_size=16",
        "data.image_channels=3",
    ]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "card.json", "config.json", "diffusion_pytorch_model.safetensors", "metrics.jsonl", "strip.png",
    ]  # fmt: skip


def test_weights_of_half_the_size_are_those_that_the_card_measures(call, tmp_path):
    write_pictures(tmp_path / "flat", pictures(8, size=16))
    for out, words in (("whole", []), ("half", ["--epochs", 2]), ("half", ["--half"])):  # the last over other weights
        base = ["--epochs", 1, "--channels", 1, "--out", out]
        done = call("train-autoencoder", "flat", *base, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, half = (tmp_path / out / f"diffusion_pytorch_model{variant}.safetensors"
                   for out, variant in (("whole", ""), ("half", ".fp16")))  # fmt: skip
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    model = load_autoencoder(Autoencoder(source="diffusers", path=str(tmp_path / "half"), channels=1, stride=4)).model
    for name, value in load_file(whole).items():
        assert torch.equal(model.state_dict()[name], value.half().float())
    images = Data(source="folder", path=str(tmp_path / "flat"), image_size=16, image_channels=3, classes=1)
    pixels = torch.from_numpy(stack(load(images, "test"))[0])
    card = json.loads((tmp_path / "half" / "card.json").read_text())
    assert card["weights"] == "float16"
    assert card["quality"]["psnr_db"] == training.quality(FrozenAutoencoder(model), pixels)["psnr_db"]


def test_the_card_compares_with_plain_pictures(call, tmp_path):
    """By numpy: PSNR of reconstructions, of averaged areas, and of one colour for each image."""
    for seed, name in enumerate("ab"):
        write_pictures(tmp_path / "images" / name, pictures(10, seed)[:, :1].repeat(3, 1))
    done = call("train-autoencoder", "images", "--epochs", 1, "--stride", 4, "--out", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "own" / "card.json").read_text())["compared"]
    data = Data(source="folder", path=str(tmp_path / "images"), classes=2, image_size=16)
    images = stack(load(data, "test"))[0]
    assert images.shape == (4, 1, 16, 16)  # grey, though saved in colours
    areas = np.rint(images.reshape(4, 1, 4, 4, 4, 4).mean((3, 5))).repeat(4, 2).repeat(4, 3)
    one = np.rint(images.mean((2, 3), keepdims=True)).repeat(16, 2).repeat(16, 3)
    frozen = load_autoencoder(Autoencoder(source="diffusers", path=str(tmp_path / "own"), channels=4, stride=4))
    decoded = frozen.decode(frozen.moments(torch.from_numpy(images))[:, :4]).numpy()
    for name, each in (("psnr", decoded), ("psnr_blurred", areas), ("psnr_constant", one)):
        errors = ((each.astype(float) - images) ** 2).mean((1, 2, 3))
        assert numbers[name] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=0.02)
    look = np.asarray(Image.open(tmp_path / "own" / "strip.png"))
    np.testing.assert_array_equal(look, np.vstack([np.hstack(list(each[:, 0])) for each in (images, decoded)]))


@pytest.mark.parametrize(
    ("psnr", "informative", "correlation", "said"),
    [
        (10.3, 0, 0.2, ["no latent channel carries information"]),
        (14.0, 3, 0.2, ["reconstructions are worse than images averaged over 8×8 pixels (14.00 against 15.00 dB)"]),
        (
            25.0,
            3,
            0.995,
            ["channels 0 and 1 say nearly the same (correlation 0.995): train longer (--epochs), or"],
        ),
        (25.0, 2, 0.6, ["only 2 of 3 channels carry information"]),
        (25.0, 3, 0.6, []),
    ],
)
def test_what_an_autoencoder_is_worth_is_said(psnr, informative, correlation, said):
    compared = {"psnr": psnr, "psnr_blurred": 15.0, "largest_correlation": correlation, "correlated": [0, 1]}
    card = {"stride": 8, "channels": 3, "compared": compared, "quality": {"informative_channels": informative}}
    lines = list(cautions(card))
    assert len(lines) == len(said)
    assert all(start in line for start, line in zip(said, lines, strict=True))
    of_file = "\n".join(cautions(card, "channels in own.toml", "stride in own.toml"))
    assert "--channels" not in of_file  # which a file of settings refuses
    assert "--stride" not in of_file
