"""Part (c): whole images beside the released way, one image by itself, and greedy tokens between precisions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.config import RunConfig
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.captured import CapturedDraws
from tokenbridge.overrides import override
from tokenbridge.speed.agreement import agreement
from tokenbridge.speed.card.rows import (
    Clock,
    Row,
    Size,
    graph,
    least_equal,
    precisions,
    products,
    released_autocast,
    require_equal,
)  # fmt: skip
from tokenbridge.speed.models import random_model
from tokenbridge.speed.released import ReleasedSampler

GPU_GOAL, CPU_GOALS = "≥ 5", {"TokenBridge": "≥ 3", "MAR": "≥ 2"}
"""times as fast as the released way"""
ONE_IMAGE = "≤ 1 s"
"""goal of one image of L at batch 1 in 256 iterations, on a GPU"""
FEW = 2
"""images of which outputs are compared before anything is timed; a GPU compares them in as many iterations, since one
token that rounding turned would turn others behind it"""
RUNS = 2.5
"""of the released way's time that a comparison takes at least, and one more where it warms up"""


def rows(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """Seconds and ratios of whole images, of both kinds of model."""
    model = random_model(size.config, device)
    yield from _precisions(model, size, device, clock)
    yield from _one(model, size, device, clock)
    first, *others = ((iterations, count) for iterations in size.iterations for count in size.images)
    turns = [("TokenBridge", first), ("MAR", first), *(("TokenBridge", other) for other in others)]
    mar, slowest = random_model(size.mar, device), 0.0
    for kind, (iterations, count) in turns:
        measured = (model, size.config) if kind == "TokenBridge" else (mar, size.mar)
        expected = (RUNS + (device.type == "cuda")) * slowest * iterations * count
        for row in _against_released(kind, *measured, size, iterations, count, expected, device, clock):
            if row.name.endswith(", released") and row.value is not None:
                slowest = max(slowest, row.value / 1000 / iterations)
            yield row


def _precisions(model: Generator, size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    for precision in precisions(device)[1:]:
        name = f"between {precision} and float32"
        if reason := clock.too_long(0):
            yield Row(f"greedy tokens that are equal {name}", why=reason)
            continue
        found = agreement(model, size.config, device, precision)
        yield Row(f"greedy tokens that are equal {name}, random weights", 100 * found.tokens, "%")
        yield Row(f"mean difference of log probability {name}, random weights", found.bits, "bits a dimension")


def _one(model: Generator, size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """One image by itself in as many iterations as configured, in bfloat16; the first run captures."""
    name = f"one image, {size.config.sample.iterations} iterations, bfloat16"
    if reason := clock.too_long(0):
        yield Row(name, why=reason)
        return
    with products(device, "bfloat16"):
        run = ours(model, size.config, 1, device)
        run()
        goal = ONE_IMAGE if size.name == "L" and device.type == "cuda" else ""
        yield Row(name, _seconds(run, device), "s", goal)


def _against_released(
    kind: str,
    model: Generator,
    config: RunConfig,
    size: Size,
    iterations: int,
    count: int,
    expected: float,
    device: torch.device,
    clock: Clock,
) -> Iterator[Row]:
    """Both ways in turn: on a GPU in bfloat16 against its own autocast, on a CPU in float32, in processor time."""
    gpu, name = device.type == "cuda", f"{kind}, {count} images, {iterations} iterations"
    config = override(config, {"sample.iterations": iterations})
    if reason := clock.too_long(expected):
        yield Row(f"{name}, times as fast as released", why=reason)
        return
    short = override(config, {"sample.iterations": FEW}) if gpu else config
    few = ours(model, short, FEW, device), released(model, short, FEW, device)
    with torch.autocast(device.type, enabled=False):
        share = require_equal(few[0](), few[1](autocast=False), name, least_equal(device))
    yield Row(f"{name}, equal tokens in float32", 100 * share, "%")
    theirs = released(model, config, count, device)
    with products(device, "bfloat16" if gpu else "float32"):
        mine, seconds = ours(model, config, count, device), {"ours": list[float](), "released": list[float]()}
        mine()  # captures on a GPU, and gets memory
        if gpu:
            theirs()  # likewise; a CPU would take as long again for little
        for _ in range(size.rounds):
            seconds["released"].append(_seconds(theirs, device))
            seconds["ours"].append(_seconds(mine, device))
            if clock.too_long(seconds["released"][-1] + seconds["ours"][-1]):
                break
    if not gpu:
        work = operations(theirs) / operations(mine)
        yield Row(f"{name}, operations of the released way over ours", work, "times")
    best = {way: statistics.median(each) for way, each in seconds.items()}
    yield from (Row(f"{name}, {way}", 1000 * each / count, "ms an image") for way, each in best.items())
    goal = (GPU_GOAL if size.name == "L" else "") if gpu else CPU_GOALS[kind]
    yield Row(f"{name}, times as fast as released", best["released"] / best["ours"], "times", goal)


def ours(model: Generator, config: RunConfig, count: int, device: torch.device) -> Callable[[], Tensor]:
    """Our sampler as the sample stage runs it: the head in graphs where there are such."""
    labels, order, noise = _arguments(model, config, count, device)
    draw = CapturedDraws(model.head, config.sample, graph(device)) if device.type == "cuda" else None
    return lambda: model.sample(labels, order, noise, config.sample, draw)


def released(model: Generator, config: RunConfig, count: int, device: torch.device) -> Callable[..., Tensor]:
    """The released way, under what it runs under; with autocast=False in float32."""
    arguments, sampler = _arguments(model, config, count, device), ReleasedSampler(model, config)

    def run(autocast: bool = True) -> Tensor:
        with released_autocast(device) if autocast else torch.autocast(device.type, enabled=False):
            return sampler(*arguments)

    return run


def operations(run: Callable[[], Tensor]) -> int:
    """Floating-point operations of products and attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _arguments(model: Generator, config: RunConfig, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    order, noise = (x.to(device) for x in model.draws(config.sample, range(count)))
    return torch.arange(count, device=device) % config.data.classes, order, noise


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Of the clock on a GPU, of the processor on a CPU, which others use as well."""
    if device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start
