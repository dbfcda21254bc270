"""Stage `sample`: images from a trained generator. Image i depends on (weights, config, i) alone.

N images, L position, C channel. Image i has class i modulo the number of classes, as in the 50-per-class protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tokenbridge.autoencoders.sources import autoencoder_of
from tokenbridge.config import RunConfig, Runtime, Sample, UserError
from tokenbridge.data.latents import Latents, to_grid
from tokenbridge.devices import at_precision, pick_device, require_precision
from tokenbridge.distributed import world
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.captured import CapturedDraws
from tokenbridge.stages.train import load_model
from tokenbridge.store.artifacts import checked, read_array, write_array
from tokenbridge.store.rows import Rows
from tokenbridge.store.runs import has_metrics, read_metrics, write_metrics

ARRAYS = ("samples", "tokens")
EXAMPLES = 100
SETTING = "sample.precision"
NO_LABELS = "none"
"""in the protocol of given samples that have none"""


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Draw config.sample.images images as uint8, with their tokens and labels; go on with what the folder has of them.

    Processes (tokenbridge.distributed) share the batches, and a batch is the same images in whichever process.
    """
    if config.sample.given:
        raise UserError(f"sample.given={config.sample.given} is not drawn; run first: tokenbridge samples add")
    here, count = world(), config.sample.images
    device = here.device(pick_device(runtime))
    require_precision(device, config.sample.precision, SETTING)
    model = load_model(config, inputs, device, config.sample.weights)
    if config.sample.compile:
        model.backbone.compile_blocks()
    autoencoder = autoencoder_of(config, inputs, device)
    scale = Latents(inputs["latents"]).scale
    left: list[range] = []
    if here.main:
        left = _left(_begin(config, model, out), runtime.batch)
    left = here.first(left)
    rows = Rows(out, ARRAYS)
    kind = rows.array("tokens").dtype
    total = sum(map(len, left))
    bar = tqdm(initial=count - total, total=count, desc="sample", unit="image", leave=False, disable=runtime.no_bar)
    with bar, at_precision(device, config.sample.precision, SETTING):
        draw = CapturedDraws(model.head, config.sample) if device.type == "cuda" else None
        for images, order, noise in _drawn(model, config.sample, left[here.rank :: here.size], device):
            labels = torch.tensor(images, device=device) % config.data.classes
            tokens = model.sample(labels, order, noise, config.sample, draw)
            decoded = autoencoder.decode(to_grid(model.tokenizer.decode(tokens), scale))
            rows.write(images.start, samples=decoded.cpu().numpy(), tokens=tokens.cpu().numpy().astype(kind))
            bar.update(len(images) * min(here.size, len(left)))
    here.barrier()
    if here.main:
        _finish(config, out)


def _drawn(
    model: Generator, how: Sample, batches: Sequence[range], device: torch.device
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Batches of images with their orders and noise; those of the next are drawn while a GPU works on one."""
    if device.type != "cuda":
        yield from ((images, *model.draws(how, images)) for images in batches)
        return

    def pinned(images: range) -> tuple[Tensor, Tensor]:
        order, noise = model.draws(how, images)
        return order.pin_memory(), noise.pin_memory()

    with ThreadPoolExecutor(1) as pool:
        following = [pool.submit(pinned, images) for images in batches[:1]]
        for i, images in enumerate(batches):
            order, noise = following.pop().result()
            following += [pool.submit(pinned, others) for others in batches[i + 1 : i + 2]]
            yield images, order.to(device, non_blocking=True), noise.to(device, non_blocking=True)


def _begin(config: RunConfig, model: Generator, out: Path) -> Rows:
    """The folder's rows, new ones where nothing was begun there."""
    if not Rows.begun(out):
        size = (config.data.image_channels, config.data.image_size, config.data.image_size)
        kind = np.uint16 if model.tokenizer.levels else np.float32
        token = (config.positions, model.tokenizer.channels)
        Rows.create(out, config.sample.images, {"samples": (np.uint8, size), "tokens": (kind, token)})
        return Rows(out, ARRAYS)
    rows = Rows(out, ARRAYS)
    if rows.count != config.sample.images:
        raise UserError(f"{out} holds {rows.count} images, not {config.sample.images}; delete it and run again")
    return rows


def _left(rows: Rows, batch: int) -> list[range]:
    """Batches that are to be drawn, each of neighbours in a fixed block of `batch` images: the last bits of an image
    may depend on the batch that it is in, so none of it may depend on the processes or on where a kill came."""
    missing = rows.missing()
    if 0 < len(missing) < rows.count:
        print(f"{rows.count - len(missing)} of {rows.count} images are there; going on with the others", flush=True)
    blocks = np.unique(missing // batch)
    return [range(first, min(first + batch, rows.count)) for first in (blocks * batch).tolist()]


def _finish(config: RunConfig, out: Path) -> None:
    """Write labels, examples and metrics beside the images, once each of them is there."""
    count, rows = config.sample.images, Rows(out, ARRAYS)
    if len(missing := rows.missing()):
        raise UserError(f"{out} lacks image {missing[0]} (and {len(missing) - 1} others); run again")
    assert rows.count == count, (rows.count, count)
    labels = np.arange(count) % config.data.classes
    write_array(out / "labels.npy", labels)
    np.savez_compressed(out / "examples.npz", images=rows.array("samples")[:EXAMPLES], labels=labels[:EXAMPLES])
    protocol = config.sample.model_dump() | {"head": config.head.kind, "quantizer": config.quantizer.kind}
    write_metrics(out, {"images": count}, protocol)


def read_labels(folder: Path) -> NDArray[np.int64] | None:
    """The classes of a stage's samples, int64 (N,); None where they were given without (library/sample_sets.py).

    Raises:
        UserError: they are missing or damaged.
    """
    if has_metrics(folder) and read_metrics(folder).protocol.get("labels") == NO_LABELS:
        return None
    return np.array(read_array(checked(folder / "labels.npy")))
