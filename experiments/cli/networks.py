"""The commands `tokenbridge train-autoencoder` and `train-classifier`: of own images, or those that ship again."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.options import DEFAULT_TRAINED, PATH, CheckpointSeconds, Device, Threads, TrainedOut, path_of
from experiments.presets import ENDING, PRESETS, Base, base
from tokenbridge.config import MOST, MOST_EMA, Autoencoder, Data, Runtime, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import CHECKPOINT, PROGRESS, new_folder, require_folder, write_atomic

if TYPE_CHECKING:
    import torch

    from tokenbridge.data.survey import Survey
    from tokenbridge.metrics.images import Lpips
    from tokenbridge.metrics.networks import ClassifierDistance

networks = typer.Typer()

EPOCHS, STEPS = 30, 200
"""of a training: so many epochs, and more where they have fewer steps than this (an autoencoder: than twice this)"""
LONGER = 4
"""times the epochs that gave an autoencoder of little use, for the next try"""
FEWEST = 8
"""images of a folder"""
STEP = 4
"""pixels in whose multiples a size is chosen"""
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help=f"default: {EPOCHS}, and more of few images")]
Size = Annotated[
    int | None,
    typer.Option("--size", min=4, max=MOST, help="pixels per side (default: those of the images, 256 at most)"),
]
Grey = Annotated[
    bool | None, typer.Option("--grey/--colour", help="one channel, or three (default: as the images are)")
]
TrainingBatch = Annotated[int, typer.Option("--batch", min=2, help="images per step; fewer where there are fewer")]


@networks.command("train-autoencoder")
def train_autoencoder(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="folder of images, with class folders or without, file of settings or preset; unset: the digits",
            parser=path_of,
        ),
    ] = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    size: Size = None,
    grey: Grey = None,
    channels: Annotated[
        int | None, typer.Option("--channels", min=1, max=MOST, help="latent channels (default: 4)")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option("--stride", help="pixels per latent position and side (default: 8, 4 or 2 by the size)"),
    ] = None,
    batch: TrainingBatch = 64,
    perceptual: Annotated[
        float,
        typer.Option("--perceptual", min=0, help="weight of LPIPS, or of the classifier's features, beside the error"),
    ] = 0.0,
    lpips_weights: Annotated[
        Path | None, typer.Option("--lpips-weights", help="torchvision's VGG-16 or AlexNet, for LPIPS", **PATH)
    ] = None,
    classifier: Annotated[Path | None, typer.Option("--classifier", help="folder of train-classifier", **PATH)] = None,
    adversarial: Annotated[
        float, typer.Option("--adversarial", min=0, help="weight of a discriminator of patches (0.5 in LDM)")
    ] = 0.0,
    adversarial_start: Annotated[
        int | None,
        typer.Option("--adversarial-start", min=0, help="steps before the discriminator begins (default: half)"),
    ] = None,
    ema: Annotated[
        float, typer.Option("--ema", min=0, max=MOST_EMA, help="decay of an average of the weights, which is kept then")
    ] = 0.0,
    half: Annotated[bool, typer.Option("--half", help="store weights as float16, in half the size")] = False,
    out: TrainedOut = DEFAULT_TRAINED,
    device: Device = "auto",
    threads: Threads = None,
    checkpoint_seconds: CheckpointSeconds = None,
) -> None:
    """Train a small autoencoder of your images, as a diffusers folder; or the shipped one of the digits again.

    Stopped anywhere, the same command goes on from its last checkpoint, to the same weights bit for bit.
    """
    from tokenbridge.autoencoders.autoencoder_kl import require_stride
    from tokenbridge.autoencoders.losses import Recipe
    from tokenbridge.autoencoders.train import train_autoencoder as train_shipped
    from tokenbridge.autoencoders.train import train_own_autoencoder
    from tokenbridge.devices import pick_device

    require_one("train-autoencoder")
    chosen = pick_device(build(Runtime, {"device": device, "threads": threads}))
    if images is None:
        _require_no({"--size": size, "--grey": grey, "--channels": channels, "--stride": stride, **_gpu(device)})
        losses = {"--perceptual": perceptual or None, "--lpips-weights": lpips_weights, "--classifier": classifier}
        losses |= {"--adversarial": adversarial or None, "--adversarial-start": adversarial_start}
        _require_no(losses | {"--ema": ema or None, "--checkpoint-seconds": checkpoint_seconds, "--half": half or None})
        _train_again(train_shipped, out, epochs or EPOCHS, seed)
        return
    from tokenbridge.data.survey import stride_of
    from tokenbridge.metrics.autoencoder_quality import cautions, judge

    if _is_settings(images):
        _require_none_beside(images, {"--size": size, "--grey": grey, "--channels": channels, "--stride": stride})
        of_file = _of_file(images).config
        data, channels, stride = of_file.data, of_file.autoencoder.channels, of_file.autoencoder.stride
        if out == DEFAULT_TRAINED and images.suffix == ENDING:  # a preset says no place
            out = _trained_in(images, of_file.autoencoder)
        _require_place(out, data.path, data.test_path)
    else:
        _require_place(out, images)
        if stride is not None:
            require_stride(stride, size)
        data = _data(images, size, grey, STEP if stride is None else stride)
        stride = stride_of(data.image_size) if stride is None else stride
    require_stride(stride, data.image_size, "autoencoder.stride=" if _is_settings(images) else "--stride ")
    epochs = epochs or _epochs(data, batch, 2 * STEPS)
    with new_folder(out, "--out"):
        lpips, features = _networks(lpips_weights, classifier, data, chosen)
        if perceptual and not (lpips or features):
            raise UserError(f"--perceptual {perceptual:g} needs a network: give --lpips-weights or --classifier")
        if adversarial_start is not None and not adversarial:
            raise UserError(f"--adversarial-start {adversarial_start} goes with --adversarial; give its weight too")
        recipe = Recipe(perceptual, lpips or features, adversarial, adversarial_start, ema)
        trained = train_own_autoencoder(
            out, data, channels or 4, stride, epochs, seed, chosen, batch, recipe, checkpoint_seconds, half
        )
        card = judge(out, *trained, lpips, features)
        for name in (CHECKPOINT, PROGRESS):
            (out / name).unlink(missing_ok=True)
    print("\n".join(_about_autoencoder(card, out)))
    of = {name: f"{name} in {images}" for name in ("channels", "stride")} if _is_settings(images) else {}
    doubts = list(cautions(card, **of))
    for line in doubts:
        print(f"train-autoencoder: {line}", file=sys.stderr)
    if images.suffix == ENDING:
        file = shlex.quote(str(images))
        longer = f"tokenbridge train-autoencoder {file} --epochs {LONGER * epochs}; or, as it is: " if doubts else ""
        print(f"{out}: where {images} says it is; next: {longer}tokenbridge run {file}")
        return
    print(
        f"{out}: autoencoder.source=diffusers {shlex.quote(f'autoencoder.path={out}')}"
        f" autoencoder.channels={card['channels']} autoencoder.stride={stride} data.image_size={data.image_size}"
        f" data.image_channels={data.image_channels}"
    )


def _networks(
    lpips: Path | None, classifier: Path | None, images: Data, device: torch.device
) -> tuple[Lpips | None, ClassifierDistance | None]:
    """The networks of LPIPS and of own features that are given. UserError for what they are not."""
    from tokenbridge.metrics.networks import ClassifierDistance

    features = None
    if classifier is not None:
        features = ClassifierDistance(classifier, images, device)
    if lpips is None:
        return None, features
    from tokenbridge.metrics.images import Lpips

    return Lpips(lpips, images.image_size, device, "--lpips-weights"), features


def _about_autoencoder(card: Mapping[str, Any], out: Path) -> Iterator[str]:
    from tokenbridge.metrics.autoencoder_quality import STRIP

    numbers, quality, stride = card["compared"], card["quality"], card["stride"]
    side = card["image_size"] // stride
    yield (
        f"autoencoder: {side}×{side} positions of {card['channels']} channels for {_shape(card)},"
        f" {card['parameters']:,} weights, {card['epochs']} epochs of {card['train_images']} images;"
        f" on {quality['images']} test images:"
    )
    yield (
        f"  PSNR {numbers['psnr']:.2f} dB; images averaged over {stride}×{stride} pixels have"
        f" {numbers['psnr_blurred']:.2f} dB, one colour for each image {numbers['psnr_constant']:.2f} dB"
    )
    yield f"  informative channels: {quality['informative_channels']} of {card['channels']}"
    if numbers["correlated"]:
        pair = " and ".join(map(str, numbers["correlated"]))
        yield f"  largest correlation of two channels: {numbers['largest_correlation']:.3f} (channels {pair})"
    if "fd_autoencoder" in numbers:
        yield (
            f"  fd_autoencoder of reconstructions to originals {numbers['fd_autoencoder']:.3g}, of averaged images"
            f" {numbers['fd_autoencoder_blurred']:.3g} (by its own encoder, which favours it)"
        )
    for key, title in (("fd_own", "fd_own"), ("lpips_vgg", "LPIPS (VGG)"), ("lpips_alex", "LPIPS (AlexNet)")):
        if key in numbers:
            yield f"  {title} of reconstructions {numbers[key]:.4g}, of averaged images {numbers[f'{key}_blurred']:.4g}"
    yield f"  {out / STRIP}: originals above reconstructions"


@networks.command("train-classifier")
def train_classifier(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="folder with one sub-folder per class, file of settings or preset; unset: the digits",
            parser=path_of,
        ),
    ] = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    size: Size = None,
    grey: Grey = None,
    batch: TrainingBatch = 64,
    name: Annotated[
        str, typer.Option("--name", help="of the features, in protocols (default: the name of the folder)")
    ] = "",
    out: TrainedOut = DEFAULT_TRAINED,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a classifier of your images, whose features score samples as fd_own; or the shipped one of digits again."""
    from tokenbridge.devices import pick_device
    from tokenbridge.metrics.train_classifier import train_classifier as train_shipped

    require_one("train-classifier")
    chosen = pick_device(build(Runtime, {"device": device, "threads": threads}))
    if images is None:
        _require_no({"--size": size, "--grey": grey, "--name": name, **_gpu(device)})
        _train_again(train_shipped, out, epochs or EPOCHS, seed)
        return
    from tokenbridge.data.survey import data_of
    from tokenbridge.metrics.scorers import OWN
    from tokenbridge.metrics.train_classifier import require_classes, train_own_classifier

    if name:
        build(Data, {"name": name})  # refused before all images are looked at
    if _is_settings(images):
        _require_none_beside(images, {"--size": size, "--grey": grey})
        of_file = _of_file(images)
        data, score = of_file.config.data, of_file.config.score
        name = name or data.name or Path(data.path or "").resolve().name
        if by_file := out == DEFAULT_TRAINED:
            named = score.features == OWN and score.weights is not None
            out = Path(score.weights or "") if named else images.parent / f"{of_file.name}-classifier"
        _require_place(out, data.path, data.test_path)
    else:
        _require_place(out, images)
        require_classes(data_of(images).classes, images)  # before all its images are looked at
        data, by_file = _data(images, size, grey, STEP), False
    name = name or images.resolve().name
    build(Data, {"name": name})  # a name that no page could show is refused
    with new_folder(out, "--out"):
        epochs = epochs or _epochs(data, batch, STEPS)
        card = train_own_classifier(out, data, name, epochs, seed, batch, chosen)
    print("\n".join(_about_classifier(card)))
    for line in _cautions_of_classifier(card["quality"]):
        print(f"train-classifier: {line}", file=sys.stderr)
    if by_file and _scores_by_it(images, out):
        print(f"{out}: {images} scores by it (fd_own, class agreement)")
    else:
        print(f"{out}: score.features=own {shlex.quote(f'score.weights={out}')}")


def _scores_by_it(file: Path, classifier: Path) -> bool:
    """Have a file of settings score by its classifier, where it does not yet and `init` wrote it so; whether it does.

    Args:
        file: the file of settings, which nothing changes where it has a [score] of its own.
        classifier: the folder of the classifier.
    """
    from experiments.fitting import scored
    from tokenbridge.metrics.scorers import OWN

    with suppress(OSError):  # one that cannot be written
        if (text := scored(file.read_text(encoding="utf-8"))) is not None:
            write_atomic(file, text.encode())
    score = base(str(file)).config.score
    return score.features == OWN and score.weights is not None and Path(score.weights) == classifier.resolve()


def _about_classifier(card: Mapping[str, Any]) -> Iterator[str]:
    quality, names = card["quality"], card["classes"]
    shown = ", ".join(names if len(names) <= 10 else [*names[:9], "…"])
    yield f"classifier {card['name']}: {len(names)} classes ({shown}), {_shape(card)}"
    yield f"  accuracy on {quality['test_images']} test images: {quality['test_accuracy']:.1%}" + (
        f" (naming the largest class alone: {quality['chance']:.1%})"
    )
    for key, what in (
        ("fd_own_test", f"test images against {quality['train_images']} training images: the floor of samples"),
        ("fd_own_halves", f"two halves of the training images, {quality['half_images']} each: chance alone"),
    ):
        if quality[key] is not None:
            yield f"  fd_own {quality[key]:.2f}: {what}"


def _cautions_of_classifier(quality: Mapping[str, Any]) -> Iterator[str]:
    from tokenbridge.metrics.scorers import OWN, SCORERS

    accuracy, chance, width = quality["test_accuracy"], quality["chance"], SCORERS[OWN].width
    error = math.sqrt(max(chance * (1 - chance), 0.01) / quality["test_images"])
    if accuracy < chance + max(0.1, 2 * error):
        yield (
            f"{accuracy:.1%} of test images are read as their class, hardly more than the {chance:.1%} that guessing"
            " gives: fd_own sees little of what tells them apart; train with more --epochs or more images"
        )
    if quality["test_images"] <= width:
        yield (
            f"{quality['test_images']} test images are too few for the {width} features: the floor reads high; it"
            " compares with as few samples only"
        )


def _shape(card: Mapping[str, Any]) -> str:
    return f"{card['image_size']}×{card['image_size']} {'grey' if card['image_channels'] == 1 else 'colour'}"


def _data(images: Path, size: int | None, grey: bool | None, multiple: int) -> Data:
    """The images of a folder as a run takes them; says in a line how they are cropped where they are.

    Args:
        images: with class folders or without.
        size: pixels per side; None: those of the images, at most 256, a multiple of `multiple`.
        grey: whether in one channel; None: where no image has colours.
    """
    from tokenbridge.data.survey import survey

    of = survey(images)
    if of.images < FEWEST:
        raise UserError(f"{images} holds {of.images} images and must hold {FEWEST} at least; add some")
    side = size or of.size(multiple)
    print(f"{images}: {of.images} images, {_cropped(of, side, multiple, chosen=size is None)}", flush=True)
    channels = 1 if (of.grey if grey is None else grey) else 3
    return of.data.model_copy(update={"image_size": side, "image_channels": channels})


def _is_settings(images: Path) -> bool:
    """Whether a word names a file of settings, or a preset, and no folder of images."""
    return images.suffix == ENDING or (str(images) in PRESETS and not images.exists())


def _of_file(file: Path) -> Base:
    """A file of settings, or a preset, whose images are not the shipped digits."""
    of_file = base(str(file))
    if of_file.config.data.source == "digits":
        raise UserError(f"{file} must name images, with data.source=folder and data.path or another source")
    return of_file


def _require_place(out: Path, *images: str | Path | None) -> None:
    """Refuse a folder of weights that cannot be written, or lies among the images, as a class or what is left out."""
    for root in map(Path, filter(None, images)):
        if out.resolve().is_relative_to(root.resolve()):
            raise UserError(f"--out {out} lies in the folder of images, {root}; give one beside it")
    require_folder(out, "--out")


def _trained_in(file: Path, autoencoder: Autoencoder) -> Path:
    """The folder in which a file of settings has its autoencoder."""
    if autoencoder.source != "diffusers" or autoencoder.path is None:
        raise UserError(
            f'{file} must say in [autoencoder] where a trained one goes, with source = "diffusers" and path; or give'
            " --out"
        )
    return Path(autoencoder.path)


def _require_none_beside(file: Path, options: Mapping[str, object]) -> None:
    """Refuse options that say what a file of settings says."""
    if given := [name for name, value in options.items() if value is not None]:
        raise UserError(f"{', '.join(given)} is what {file} says; leave it out, or change the file")


def _cropped(of: Survey, side: int, multiple: int, chosen: bool) -> str:
    colours = "grey" if of.grey else "in colours"
    if of.smallest == of.largest == side:
        return f"{colours}, of {side} pixels"
    rule = f": what half of them have, in steps of {multiple}, up to 256; --size gives another" if chosen else ""
    return f"{colours}, of {of.sizes()} pixels on the shorter side, scaled and cropped to {side}×{side}{rule}"


def _epochs(data: Data, batch: int, steps: int) -> int:
    """EPOCHS, or as many as make so many steps of the training images."""
    from tokenbridge.data.files import split_of

    count = len(split_of(data, "train")[1])
    return max(EPOCHS, math.ceil(steps / (count // min(batch, count))))


def _require_no(options: Mapping[str, object]) -> None:
    """Refuse options that say something about images where there are none."""
    if given := [name for name, value in options.items() if value not in (None, "")]:
        raise UserError(f"{', '.join(given)} goes with a folder of images; name it first")


def _gpu(device: str) -> dict[str, str]:
    """The option, where it asks for a GPU: what ships is trained on the processor."""
    return {"--device": device} if device.startswith("cuda") else {}


def _train_again(train: Callable[..., dict[str, Any]], out: Path, epochs: int, seed: int) -> None:
    with new_folder(out, "--out"):
        print(json.dumps(train(out, epochs=epochs, seed=seed)["quality"]))
    print(f"weights and card: {out}")
