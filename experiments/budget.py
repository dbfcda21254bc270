"""What a configuration takes, before anything runs: without data, weights or memory of the model's size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
USABLE = 0.9
"""share of a device's memory that weights and activations may fill: operators take more while they run"""


@dataclass(frozen=True)
class Machine:
    """Devices, and what they reach. Rates are a device's peaks in TFLOP/s; of these, `utilization` is reached."""

    devices: int = 8
    tflops: float = 312.0
    """of what runs in bfloat16: an A100's"""
    tflops_float32: float = 19.5
    """of what runs in float32: an A100's without TF32"""
    utilization: float = 0.4
    accumulate: int = 1
    memory: float = 80.0
    """GB of a device: an A100's"""

    def seconds(self, operations: float, low: bool) -> float:
        """Seconds that one device takes for so many floating-point operations.

        Args:
            operations: their number.
            low: whether they run in bfloat16; else in float32.
        """
        return operations / (1e12 * (self.tflops if low else self.tflops_float32) * self.utilization)


def estimate(config: RunConfig, machine: Machine, images: Mapping[str, int | None]) -> dict[str, Any]:
    """What a configuration takes: parameters, latents, steps, memory, operations, seconds of a device.

    Args:
        config: the configuration.
        machine: the devices that it would run on.
        images: "train" and "test", images of the two folders where they are not here; None: ImageNet's, where the
            classes are.

    Returns:
        By subject, counts and bytes as whole numbers; `device_seconds` of the latents, the training and SAMPLES images.

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
    parameters = costs.parameters(model)
    memory = _memory(config, machine, parameters)
    return {
        "parameters": {
            "generator": parameters,
            "backbone": costs.parameters(model.backbone),
            "head": costs.parameters(model.head),
        },
        "autoencoder": {"about": what, **autoencoder},
        "latents": {"bytes": stored_bytes(config, counts), "images": counts, "images_are": source},
        "training": {"steps": steps, "operations_per_step": step},
        "memory": memory,
        "sampling": {"operations_per_image": drawn},
        "device_seconds": {
            "latents": machine.seconds(encoding, low=config.latents.precision == "bfloat16"),
            "training": machine.seconds(step * steps, low=config.train.precision == "bfloat16"),
            f"{SAMPLES:,} samples": machine.seconds(drawn * SAMPLES, low=config.sample.precision == "bfloat16"),
        },
        "devices": machine.devices,
    }


def lines(config: RunConfig, machine: Machine, images: Mapping[str, int | None]) -> list[str]:
    """The same in lines, for a terminal."""
    taken = estimate(config, machine, images)
    parameters, latents, memory = taken["parameters"], taken["latents"], taken["memory"]
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in memory["of_which"].items())
    fits = _fits(config, machine, memory)
    return [
        f"parameters  {parameters['generator']:,}: backbone {parameters['backbone']:,}, head"
        f" {parameters['head']:,}; autoencoder {taken['autoencoder']['about']}",
        f"latents     {_bytes(latents['bytes'], 2)} of {config.latents.dtype}"
        f"{', mirror images as well' if config.latents.flip else ''}:"
        f" {', '.join(f'{count:,} {split}' for split, count in latents['images'].items())} images"
        f" ({latents['images_are']}) of {config.positions} positions × {config.autoencoder.channels} channels",
        f"training    {taken['training']['steps']:,} steps of {config.train.batch:,} images,"
        f" {_tera(taken['training']['operations_per_step'])} per step",
        f"memory      {_bytes(memory['bytes'])} on each of {machine.devices} devices, {memory['images_at_once']} images"
        f" at once: {parts}",
        "            (activations: what each operator keeps for the backward pass, counted without values; what it"
        " takes while it runs is not in it)",
        f"            {fits}",
        f"sampling    {_tera(taken['sampling']['operations_per_image'])} per image: {config.sample.iterations}"
        f" iterations, guidance {config.sample.guidance:g}, the autoencoder's decoder"
        f" {'included' if 'decode' in taken['autoencoder'] else 'left out'}",
        f"time        at {machine.utilization:.0%} of {machine.tflops:g} TFLOP/s in bfloat16 and"
        f" {machine.tflops_float32:g} in float32 per device:",
        *(
            f"  {name:<15} {_hours(seconds):>10} device-hours, {_time(seconds / machine.devices)} on {machine.devices}"
            for name, seconds in taken["device_seconds"].items()
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
    if data.source != "folder" or Path(data.path or "").is_dir():
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


def _memory(config: RunConfig, machine: Machine, parameters: int) -> dict[str, Any]:
    """What a device's training takes.

    Args:
        config: its batch is shared by the devices.
        machine: the number of devices, in how many parts each of them takes its share, and its memory.
        parameters: of the generator; each is float32.

    Returns:
        images_at_once, bytes, and of_which weights, gradients, AdamW's moments, EMA, activations; and the fewest parts
        of a share that fit in the memory, accumulate_to_fit, with their bytes_then. None where no number of them does.
    """
    activations, share = costs.activation_bytes(config), -(-config.train.batch // machine.devices)
    lasting = {
        "weights": 4 * parameters,
        "gradients": (4 if machine.devices == 1 else 8) * parameters,  # and the vectors in which processes add them
        "AdamW": 8 * parameters,
        "EMA": 4 * parameters,
    }
    fixed, most = sum(lasting.values()), USABLE * machine.memory * 1e9

    def taken(parts: int) -> int:
        return fixed + activations(-(-share // parts))

    fewest = 1 + bisect_left(range(1, share + 1), True, key=lambda parts: taken(parts) <= most)
    images = -(-share // machine.accumulate)
    kept = lasting | {"activations": activations(images)}
    return {
        "images_at_once": images,
        "bytes": sum(kept.values()),
        "of_which": kept,
        "accumulate_to_fit": fewest if fewest <= share else None,
        "bytes_then": taken(fewest) if fewest <= share else None,
    }


def _fits(config: RunConfig, machine: Machine, memory: Mapping[str, Any]) -> str:
    """Whether that fits in a device's memory, and what does."""
    room, parts = f"{USABLE:.0%} of {machine.memory:g} GB (--memory)", memory["accumulate_to_fit"]
    if memory["bytes"] <= USABLE * machine.memory * 1e9:
        return f"fits in {room}"
    if parts:
        return f"more than {room}: it fits with --accumulate {parts}, in {_bytes(memory['bytes_then'])}"
    remedy = "devices with more memory"
    if not config.train.gradient_checkpointing:
        remedy = f"train.gradient_checkpointing=true, or {remedy}"
    return f"more than {room}, and one image at a time does not fit either; take {remedy}"


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
