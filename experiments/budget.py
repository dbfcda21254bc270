"""What a configuration takes, before anything runs: without data, weights or memory of the model's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.progress import time_text
from tokenbridge.autoencoders import frozen
from tokenbridge.autoencoders.autoencoder_kl import sizes_of
from tokenbridge.autoencoders.sources import source_of
from tokenbridge.config import RunConfig, UserError
from tokenbridge.data.files import Split, split_of, splits
from tokenbridge.data.latents import stored_bytes
from tokenbridge.model import costs

SAMPLES = 50_000
IMAGENET = {"train": 1_281_167, "test": 50_000}
"""images of its folders"""
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Machine:
    """Devices, and what they reach. Rates are a device's peaks in TFLOP/s; of these, `utilization` is reached."""

    devices: int = 8
    tflops: float = 312.0
    """of training in bfloat16: an A100's"""
    tflops_float32: float = 19.5
    """of what runs in float32 (sampling, encoding): an A100's without TF32"""
    utilization: float = 0.4
    accumulate: int = 1

    def seconds(self, operations: float, low: bool) -> float:
        """Seconds that one device takes for so many floating-point operations.

        Args:
            operations: their number.
            low: whether they run in bfloat16; else in float32.
        """
        return operations / (1e12 * (self.tflops if low else self.tflops_float32) * self.utilization)


def lines(config: RunConfig, machine: Machine, images: Mapping[str, int | None]) -> list[str]:
    """What a configuration takes, in lines: parameters, latents, steps, memory, operations, device-hours.

    Args:
        config: the configuration.
        machine: the devices that it would run on.
        images: "train" and "test", images of the two folders where they are not here; None: ImageNet's, where the
            classes are.

    Raises:
        UserError: a pair that cannot work, fewer images than a batch, or an unknown number of images.
    """
    config.require_pair()
    counts, source = image_counts(config, images)
    steps = config.train.epochs * (counts["train"] // config.train.batch)
    if steps == 0:
        raise UserError(f"train.batch={config.train.batch} must be at most {counts['train']}, the training images")
    model = costs.empty_generator(config)
    autoencoder, what = _autoencoder(config)
    step, drawn = costs.training_step_flops(config), costs.sampling_flops(config) + autoencoder.get("decode", 0)
    encoding = autoencoder.get("encode", 0) * (sum(counts.values()) + counts["train"] * config.latents.flip)
    times = {
        "latents": machine.seconds(encoding, low=False),
        "training": machine.seconds(step * steps, low=config.train.precision == "bfloat16"),
        f"{SAMPLES:,} samples": machine.seconds(drawn * SAMPLES, low=False),
    }
    return [
        f"parameters  {costs.parameters(model):,}: backbone {costs.parameters(model.backbone):,}, head"
        f" {costs.parameters(model.head):,}; autoencoder {what}",
        f"latents     {_bytes(stored_bytes(config, counts), 2)} of {config.latents.dtype}"
        f"{', mirror images as well' if config.latents.flip else ''}:"
        f" {', '.join(f'{count:,} {split}' for split, count in counts.items())} images"
        f" ({source}) of {config.positions} positions × {config.autoencoder.channels} channels",
        f"training    {steps:,} steps of {config.train.batch:,} images, {_tera(step)} per step",
        *memory(config, machine, costs.parameters(model)),
        f"sampling    {_tera(drawn)} per image: {config.sample.iterations} iterations, guidance"
        f" {config.sample.guidance:g}, the autoencoder's decoder {'included' if autoencoder else 'left out'}",
        f"time        at {machine.utilization:.0%} of {machine.tflops:g} TFLOP/s in bfloat16 and"
        f" {machine.tflops_float32:g} in float32 per device:",
        *(
            f"  {name:<15} {_hours(seconds):>10} device-hours, {_time(seconds / machine.devices)} on {machine.devices}"
            for name, seconds in times.items()
        ),
    ]


def image_counts(config: RunConfig, given: Mapping[str, int | None]) -> tuple[dict[Split, int], str]:
    """Images of each split, and where the numbers come from.

    Args:
        config: whose data they are; where they are here, they are counted.
        given: "train" and "test", images of the folders of other data; None: ImageNet's, where the number of classes is
            its own.

    Raises:
        UserError: the data are not here and their number is unknown.
    """
    data = config.data
    if data.source == "digits" or Path(data.path or "").is_dir():
        return {split: len(split_of(data, split)[1]) for split in splits(data)}, "counted"
    published = IMAGENET if data.classes == IMAGENET_CLASSES else {}
    counts = {folder: given[folder] or published.get(folder, 0) for folder in IMAGENET}
    if lacking := [split for split, count in counts.items() if not count]:
        raise UserError(
            f"data.path={data.path} is not here, and data.classes={data.classes} is not ImageNet's; say how many images"
            f" it has with --{lacking[0]}-images"
        )
    validation = round(counts["train"] * data.validation_fraction)  # up to the rounding in each class
    parts: dict[Split, int] = {"train": counts["train"] - validation, "validation": validation, "test": counts["test"]}
    origin = "given" if any(given.values()) else f"ImageNet's, for {data.path} is not here"
    return {split: parts[split] for split in splits(data)}, origin


def _bytes(size: float, decimals: int = 1) -> str:
    """In GB; less than a tenth of one in MB."""
    return f"{size / 1e9:,.{decimals}f} GB" if size >= 1e8 else f"{size / 1e6:.{decimals}f} MB"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds >= 18 else "under 0.01"


def _time(seconds: float) -> str:
    return time_text(seconds) if seconds >= 1 else "under 1 s"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.{0 if operations >= 1e14 else 3}f} TFLOP"


def memory(config: RunConfig, machine: Machine, parameters: int) -> list[str]:
    """The memory of one device in training, in lines: weights, gradients, AdamW's moments, EMA, activations.

    Args:
        config: its batch is shared by the devices.
        machine: the number of devices, and in how many parts each of them takes its share.
        parameters: of the generator; each is float32.
    """
    share = -(-config.train.batch // (machine.devices * machine.accumulate))
    kept = {
        "weights": 4 * parameters,
        "gradients": (4 if machine.devices == 1 else 8) * parameters,  # and the vector in which processes add them
        "AdamW": 8 * parameters,
        "EMA": 4 * parameters,
        "activations": costs.activation_bytes(config, share),
    }
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in kept.items())
    return [
        f"memory      {_bytes(sum(kept.values()))} on each of {machine.devices} devices, {share} images at once:"
        f" {parts}",
        "            (activations: what each operator keeps for the backward pass, counted without values; what it"
        " takes while it runs is not in it)",
    ]


def _autoencoder(config: RunConfig) -> tuple[dict[str, int], str]:
    """What frozen.costs says, and in words; nothing where the architecture is not known here."""
    path, source, note = config.autoencoder.path, source_of(config.autoencoder), ""
    wanted = (config.autoencoder.channels, config.autoencoder.stride)
    if path is None or Path(path).exists():
        settings = source.settings()
    elif source.published and sizes_of(source.published)[:2] == wanted:
        settings, note = source.published, f" as published, for {path} is not here"
    else:
        return {}, f"unknown, for {path} is not here"
    source.require_sizes(sizes_of(settings))
    operations = frozen.costs(settings, config.data.image_size)
    total = operations["encoder"] + operations["decoder"]
    return operations, f"{total:,} (encoder {operations['encoder']:,}, decoder {operations['decoder']:,}){note}"
