"""Parameters, floating-point operations and memory of a configuration, told before it runs.

Operations are those of matrix products and attention, as torch counts them; elementwise work and the optimizer are
left out. The backbone's are a formula; the heads', which differ, are counted on tensors without values, which take no
memory.

B image, L position, E embedding of a token, C channel, D width, M class tokens, U unmasked positions, T = M + U or
M + L tokens of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from tokenbridge.config import Head as HeadSettings
from tokenbridge.config import RunConfig
from tokenbridge.model.backbone import FEWEST
from tokenbridge.model.batches import Batch, Draws
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.contract import POSITIONS_AT_ONCE, Head
from tokenbridge.model.masking import masked_after, masked_count
from tokenbridge.operations import Operations
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer
from tokenbridge.tokenizers.trained import codebooks, finish

MASK_RATIOS = 8
"""evenly spaced quantiles of the mask ratio over which a step's operations are averaged"""


def parameters(*modules: nn.Module) -> int:
    """Number of weights of all modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def empty_generator(config: RunConfig) -> Generator:
    """The config's generator on the meta device, without values."""
    tokenizer = placeholder_tokenizer(config)
    with torch.device("meta"), _Unset():
        return Generator(config, tokenizer, tuple(range(tokenizer.channels)))


def placeholder_tokenizer(config: RunConfig) -> Tokenizer:
    """A tokenizer of the config's kind and size whose values mean nothing: a real one needs latents."""
    levels, channels = config.token_levels, config.autoencoder.channels
    extremes = torch.zeros(2, channels)
    if not levels:
        return IdentityQuantizer(extremes)
    if config.quantizer.trained:
        return finish(config, codebooks(config, torch.zeros), 1.0, extremes)
    return ScalarQuantizer(torch.arange(levels[0])[None].float(), extremes)


def training_flops(loss: Callable[[Batch], Tensor], draws: Draws, device: torch.device) -> float:
    """Operations of a whole training, forward and backward: the mean over MASK_RATIOS mask ratios.

    The loss of one image is run with up to three numbers of masked positions. Those of others follow: products grow
    with the number of masked or of seen positions, attention with its square, and nothing else does.

    No weight and no random state is changed; gradients are.

    Args:
        loss: the training loss of a batch.
        draws: gives the batch, the masks and the number of steps.
        device: where the loss runs.
    """
    batch = draws.batch(0, range(1))  # one image: all grow by their number, and memory with them
    order = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    masks = [draws.mask(order, (i + 0.5) / MASK_RATIOS) for i in range(MASK_RATIOS)]
    by_count = {int(mask.sum()): mask for mask in masks}
    counts = sorted(by_count)
    run, gpus = dict[int, int](), [device] if device.type == "cuda" else []
    for count in {counts[0], counts[len(counts) // 2], counts[-1]}:
        with torch.random.fork_rng(devices=gpus), Operations() as counted:
            loss(replace(batch, mask=by_count[count])).backward()
        run[count] = counted.total
    total = sum(_parabola(run, int(mask.sum())) for mask in masks)
    return total * draws.train.batch / MASK_RATIOS * draws.steps


def _parabola(points: Mapping[int, int], at: int) -> int:
    """The value at a whole number of the polynomial of least degree through up to three points (Lagrange)."""
    terms = (value * math.prod(Fraction(at - x, key - x) for x in points if x != key) for key, value in points.items())
    value = sum(terms, Fraction(0))
    assert value.denominator == 1, value
    return int(value)


def training_step_flops(config: RunConfig) -> float:
    """Operations of one step on the global batch: training_flops per step, without running it."""
    masked = [_masked(config, (i + 0.5) / MASK_RATIOS) for i in range(MASK_RATIOS)]
    backbone = sum(backbone_flops(config, config.positions - count, training=True) for count in masked)
    tokenizer = placeholder_tokenizer(config)

    def position(depth: int) -> int:
        again = config.train.gradient_checkpointing
        with _without_values(), Operations() as counted:
            z = torch.zeros(1, config.backbone.width, requires_grad=True)
            _head_loss(_head(config, tokenizer, depth), z, tokenizer, again).sum().backward()
        return counted.total

    return (backbone + sum(masked) * _at_depth(position, config.head.depth)) / MASK_RATIOS * config.train.batch


@torch.no_grad()
def sampling_flops(config: RunConfig) -> float:
    """Operations per image of a batch: the backbone in each iteration, the head for each token drawn."""
    how, tokenizer = config.sample, placeholder_tokenizer(config)
    guided, masked = how.guidance != 1, [config.positions, *masked_after(config.positions, how.iterations)[:-1]]
    revealed = masked if how.confidence > 0 else [before - after for before, after in pairwise([*masked, 0])]
    wanted = [None, *revealed[1:]]  # the first iteration's features are of all positions
    first, *others = (
        backbone_flops(config, config.positions - count, training=False, wanted=asked)
        for count, asked in zip(masked, wanted, strict=True)
    )

    def drawn(tokens: int, depth: int) -> int:
        with _without_values(), Operations() as counted:
            head, z = _head(config, tokenizer, depth).eval(), torch.zeros(tokens, config.backbone.width)
            head.sample(z, torch.zeros(tokens, *head.noise_shape(how)), how, z if guided else None, how.guidance)
            if how.confidence > 0:
                head.log_prob(z, torch.zeros(tokens, tokenizer.channels, dtype=tokenizer.dtype))
        return counted.total

    # the difference: what all tokens of a batch share, such as embeddings of time, counts for none
    tokens = sum(masked) if how.confidence > 0 else config.positions
    each = _at_depth(lambda depth: drawn(2, depth) - drawn(1, depth), config.head.depth)
    # without a label, features of the first iteration are one image's for all
    return first + (1 + guided) * sum(others) + tokens * each


def backbone_flops(config: RunConfig, unmasked: int, training: bool, wanted: int | None = None) -> int:
    """Operations of the backbone on one image.

    A product with a weight (a, b) takes 2·T·a·b, the two of attention 2·T²·D each; the backward pass takes each twice
    again, for the gradients of both factors, but the embedding's input has none. Gradient checkpointing runs the
    blocks again up to the last operation whose input is kept: without dropout that is the last product.

    Args:
        unmasked: U in [0, L].
        training: with the backward pass.
        wanted: R, positions whose features are asked for; None for all. Of the others, the last block computes keys
            and values alone.
    """
    c, positions = config.backbone, config.positions
    width, hidden = c.width, int(c.width * c.mlp_ratio)
    passes, again = (3, config.train.gradient_checkpointing) if training else (1, False)

    def block(tokens: int, rows: int | None = None) -> int:
        rows = tokens if rows is None else rows
        queries = rows if rows == tokens else max(rows, FEWEST)
        last = 2 * rows * hidden * width
        products = 2 * (2 * tokens + queries + rows) * width**2
        forward = products + 4 * queries * tokens * width + 2 * last
        return passes * forward + again * (forward - (0 if c.dropout else last))

    seen, full = c.class_tokens + unmasked, c.class_tokens + positions
    embed = 2 * positions * config.autoencoder.channels * width * (2 if training else 1)
    decoder = (c.decoder_depth - 1) * block(full) + block(full, wanted)
    return embed + c.encoder_depth * block(seen) + passes * 2 * seen * width**2 + decoder


class _Kept(NamedTuple):
    """Bytes that operators keep of a forward pass for the backward pass, each tensor once."""

    outside: int
    """with gradient checkpointing, what is kept all the while: the inputs of blocks and head, and what is neither"""
    block: int
    """the largest of one block of the backbone; 0 without checkpointing"""
    head: int
    """of the head"""


def activation_bytes(config: RunConfig) -> Callable[[int], int]:
    """Bytes kept for the backward pass by the number of images, at the median mask.

    As PyTorch's operators on a CPU keep them, in the training's precision; measured, they are that to 0.1 %. They grow
    evenly with the images, so they are counted of one image and of two. With gradient checkpointing, a block of the
    backbone or a part of the head computes its own anew while nothing of another is there: the most that is alive at
    any moment was measured at up to 10 % more.
    """
    tokenizer = placeholder_tokenizer(config)
    with FakeTensorMode(), _Unset():
        model = Generator(config, tokenizer, tuple(range(tokenizer.channels)))
        one, two = (_kept(model, config, images) for images in (1, 2))

    def at(name: str, images: float) -> float:
        first = getattr(one, name)
        return first + (images - 1) * (getattr(two, name) - first)

    def bytes_of(images: int) -> int:
        if not config.train.gradient_checkpointing:
            return round(at("outside", images) + at("head", images))
        part = min(images, POSITIONS_AT_ONCE / _masked(config, 0.5))
        return round(at("outside", images) + max(at("block", images), at("head", part)))

    return bytes_of


def _kept(model: Generator, config: RunConfig, images: int) -> _Kept:
    """What a model that checkpoints nothing itself keeps of so many images; of the head, of all positions."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    held: dict[int, Tensor] = {}
    blocks, inputs, before = list[int](), list[int](), list[int]()

    def keep(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            held.setdefault(key, tensor)  # kept alive, so that its place is not taken by another
        return tensor

    def size() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())

    def enter(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        before.append(size())
        inputs.append(arguments[0].nbytes)

    def leave(block: nn.Module, arguments: Any, output: Any) -> None:
        blocks.append(size() - before.pop())

    hooks, again = [], config.train.gradient_checkpointing
    for block in (*model.backbone.encoder, *model.backbone.decoder) if again else ():
        hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    low = config.train.precision == "bfloat16"
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", enabled=low):
        z = _features(model.train(), images, _masked(config, 0.5))
        backbone = size()
        target, noise = _target_and_noise(model.head, z, model.tokenizer)
        _ = model.head.loss(z, target, noise)
    for hook in hooks:
        hook.remove()
    if again:
        inputs += [each.nbytes for each in (z, target, noise)]
    return _Kept(backbone - sum(blocks) + sum(inputs), max(blocks, default=0), size() - backbone)


def _masked(config: RunConfig, uniform: float) -> int:
    return masked_count(uniform, config.positions, config.train.mask_ratio_min, config.train.mask_ratio_deviation)


def _features(model: Generator, images: int, masked: int) -> Tensor:
    """Features (N, D) of as many masked positions in each image, as Generator.forward hands them to the head."""
    positions = model.positions
    embedded = torch.zeros(images, positions, model.tokenizer.embedding_width)
    seen = torch.arange(positions - masked).expand(images, -1)
    z = model.backbone.at(embedded, seen, torch.zeros(images, dtype=torch.int64))
    return z.flatten(0, 1)[torch.arange(images * masked)]


def _target_and_noise(head: Head, z: Tensor, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    target = torch.zeros(len(z), tokenizer.channels, dtype=tokenizer.dtype, device=z.device)
    return target, torch.zeros(len(z), *(head.loss_noise_shape or (0,)), device=z.device)


def _head_loss(head: Head, z: Tensor, tokenizer: Tokenizer, again: bool) -> Tensor:
    return (head.loss_in_parts if again else head.loss)(z, *_target_and_noise(head, z, tokenizer))


def _head(config: RunConfig, tokenizer: Tokenizer, depth: int) -> Head:
    channels = tokenizer.channels
    head, order = _with_depth(config.head, depth), tuple(range(channels))
    with _Unset():
        return build_head(head, config.backbone.width, channels, tokenizer.levels, order)


def _with_depth(head: HeadSettings, depth: int) -> HeadSettings:
    return head.model_copy(update={"depth": depth})


def _at_depth(count: Callable[[int], int], depth: int) -> int:
    """What is counted at one and at two layers, at so many: all layers are alike."""
    one = count(1)
    return one + (depth - 1) * (count(2) - one) if depth > 1 else one


@contextmanager
def _without_values() -> Iterator[None]:
    """Tensors without values; attention as products, which are counted."""
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
        yield


class _Unset(TorchFunctionMode):
    """Weights of new modules keep the values that they have, or none: random ones take time where none are read."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
