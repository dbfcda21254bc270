"""Part (b): one guided iteration in the middle of an image, by precision, compiled, and its launches and waits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.captured import CapturedDraws
from tokenbridge.speed.card.rows import Clock, Row, Size, graph, medians, precisions, products
from tokenbridge.speed.models import random_model

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
"""calls of the driver that put work on a GPU, as the profiler names them"""


def rows(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """Milliseconds of an iteration that reveals one position of each image, half of which are known."""
    model, images = random_model(size.config, device), size.images[0]
    name = f"guided iteration of {images} images"
    for precision in precisions(device):
        if reason := clock.too_long(0):
            yield Row(f"{name}, {precision}", why=reason)
            continue
        with products(device, precision):
            run = half_way(model, size, device)
            yield Row(f"{name}, {precision}", 1000 * medians({"": run}, size.rounds, device)[""], "ms")
            if precision == "bfloat16":
                yield from _counted(name, run, device)
    yield from _compiled(name, model, size, device, clock)


def half_way(model: Generator, size: Size, device: torch.device) -> Callable[[], Tensor]:
    """The sampling of a single position of each image, from random tokens of half the others."""
    how, images, positions = size.config.sample, size.images[0], model.positions
    order, noise = (x.to(device) for x in model.draws(how, range(images)))
    labels = torch.arange(images, device=device) % size.config.data.classes
    tokens = torch.zeros(images, positions, model.tokenizer.channels, dtype=model.tokenizer.dtype, device=device)
    draw = CapturedDraws(model.head, how, graph(device))
    masked = positions // 2

    def run() -> Tensor:
        with torch.no_grad():
            return model.iteration(tokens, order, masked, masked - 1, labels, noise, how, draw)

    return run


def _counted(name: str, run: Callable[[], Tensor], device: torch.device) -> Iterator[Row]:
    """Launches of an iteration, and how often it makes the CPU wait."""
    if device.type != "cuda":
        yield from (Row(f"{name}, {what}", goal=goal, why="a CPU launches nothing") for what, goal in COUNTED)
        return
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
    launched = sum(event.count for event in seen.key_averages() if event.key in LAUNCHES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("called a synchronizing" in str(each.message) for each in caught)
    for (what, goal), value in zip(COUNTED, (launched, waits), strict=True):
        yield Row(f"{name}, {what}", float(value), "", goal)


COUNTED = (("launches", ""), ("synchronizations", "≤ 0"))


def _compiled(name: str, model: Generator, size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    name = f"{name}, bfloat16, compiled"
    if device.type != "cuda":
        yield Row(name, why="compiled on a GPU alone: a CPU takes longer to compile than to run")
        return
    if reason := clock.too_long(40):
        yield Row(name, why=reason)
        return
    model.backbone.compile_blocks()
    with products(device, "bfloat16"):
        yield Row(name, 1000 * medians({"": half_way(model, size, device)}, size.rounds, device)[""], "ms")
