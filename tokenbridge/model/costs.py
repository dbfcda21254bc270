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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenbridge.config import RunConfig
from tokenbridge.model.batches import Batch, Draws
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.contract import Head
from tokenbridge.model.masking import masked_after, masked_count
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer
from tokenbridge.tokenizers.trained import CODEBOOK, finish

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

MASK_RATIOS = 8
"""evenly spaced quantiles of the mask ratio over which a step's operations are averaged"""


def parameters(*modules: nn.Module) -> int:
    """Number of weights of all modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def empty_generator(config: RunConfig) -> Generator:
    """The config's generator on the meta device, without values."""
    tokenizer = placeholder_tokenizer(config)
    with torch.device("meta"):
        return Generator(config, tokenizer, tuple(range(tokenizer.channels)))


def placeholder_tokenizer(config: RunConfig) -> Tokenizer:
    """A tokenizer of the config's kind and size whose values mean nothing: a real one needs latents."""
    levels, channels = config.token_levels, config.autoencoder.channels
    extremes = torch.zeros(2, channels)
    if not levels:
        return IdentityQuantizer(extremes)
    if config.quantizer.trained:
        return finish(config, {CODEBOOK: torch.zeros(1, levels[0], channels)}, 1.0, extremes)
    return ScalarQuantizer(torch.arange(levels[0])[None].float(), extremes)


def training_flops(loss: Callable[[Batch], Tensor], draws: Draws) -> float:
    """Operations of a whole training, forward and backward: the mean over MASK_RATIOS mask ratios.

    The loss of one image is run with up to three numbers of masked positions. Those of others follow: products grow
    with the number of masked or of seen positions, attention with its square, and nothing else does.

    No weight and no random state is changed; gradients are.

    Args:
        loss: the training loss of a batch.
        draws: gives the batch, the masks and the number of steps.
    """
    batch = draws.batch(0, range(1))  # one image: all grow by their number, and memory with them
    order = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    masks = [draws.mask(order, (i + 0.5) / MASK_RATIOS) for i in range(MASK_RATIOS)]
    by_count = {int(mask.sum()): mask for mask in masks}
    counts = sorted(by_count)
    run = dict[int, int]()
    for count in {counts[0], counts[len(counts) // 2], counts[-1]}:
        with torch.random.fork_rng(), _counting() as counter:
            loss(replace(batch, mask=by_count[count])).backward()
        run[count] = counter.get_total_flops()
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
    with _without_values(), _counting() as counter:
        z = torch.zeros(1, config.backbone.width, requires_grad=True)
        _head_loss(_head(config, tokenizer), z, tokenizer).sum().backward()
    return (backbone + sum(masked) * counter.get_total_flops()) / MASK_RATIOS * config.train.batch


@torch.no_grad()
def sampling_flops(config: RunConfig) -> float:
    """Operations per image of a batch: the backbone in each iteration, the head for each token drawn."""
    how, tokenizer = config.sample, placeholder_tokenizer(config)
    guided, masked = how.guidance != 1, [config.positions, *masked_after(config.positions, how.iterations)[:-1]]
    backbone = sum(backbone_flops(config, config.positions - count, training=False) for count in masked)

    def drawn(tokens: int) -> int:
        with _without_values(), _counting() as counter:
            head, z = _head(config, tokenizer).eval(), torch.zeros(tokens, config.backbone.width)
            head.sample(z, torch.zeros(tokens, *head.noise_shape(how)), how, z if guided else None, how.guidance)
            if how.confidence > 0:
                head.log_prob(z, torch.zeros(tokens, tokenizer.channels, dtype=tokenizer.dtype))
        return counter.get_total_flops()

    # the difference: what all tokens of a batch share, such as embeddings of time, counts for none
    tokens = sum(masked) if how.confidence > 0 else config.positions
    return (1 + guided) * backbone + tokens * (drawn(2) - drawn(1))


def backbone_flops(config: RunConfig, unmasked: int, training: bool) -> int:
    """Operations of the backbone on one image.

    A product with a weight (a, b) takes 2·T·a·b, the two of attention 2·T²·D each; the backward pass takes each twice
    again, for the gradients of both factors, but the embedding's input has none. Gradient checkpointing runs the
    blocks again up to the last operation whose input is kept: without dropout that is the last product.

    Args:
        unmasked: U in [0, L].
        training: with the backward pass.
    """
    c, positions = config.backbone, config.positions
    width, hidden = c.width, int(c.width * c.mlp_ratio)
    passes, again = (3, config.train.gradient_checkpointing) if training else (1, False)

    def block(tokens: int) -> int:
        last = 2 * tokens * hidden * width
        forward = 2 * tokens * 4 * width**2 + 4 * tokens**2 * width + 2 * last
        return passes * forward + again * (forward - (0 if c.dropout else last))

    seen, full = c.class_tokens + unmasked, c.class_tokens + positions
    embed = 2 * positions * config.autoencoder.channels * width * (2 if training else 1)
    return embed + c.encoder_depth * block(seen) + passes * 2 * seen * width**2 + c.decoder_depth * block(full)


def activation_bytes(config: RunConfig, images: int) -> int:
    """Bytes that the operators keep of a forward pass of so many images for the backward pass, at the median mask.

    As PyTorch's operators on a CPU keep them, in the training's precision, each tensor once; with gradient
    checkpointing, the input of each block of the backbone and one block's own.
    """
    tokenizer = placeholder_tokenizer(config)
    with FakeTensorMode():
        model = Generator(config, tokenizer, tuple(range(tokenizer.channels)))
        return saved_bytes(model, config, images)


def saved_bytes(model: Generator, config: RunConfig, images: int) -> int:
    """The activation_bytes of this model, which may have values or none."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}
    blocks, inputs, before = list[int](), list[int](), list[int]()

    def keep(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            kept.setdefault(key, tensor)  # kept alive, so that its place is not taken by another
        return tensor

    def held() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    def enter(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        before.append(held())
        inputs.append(arguments[0].nbytes)

    def leave(block: nn.Module, arguments: Any, output: Any) -> None:
        blocks.append(held() - before.pop())

    hooks = []
    if config.train.gradient_checkpointing:
        for block in (*model.backbone.encoder, *model.backbone.decoder):
            hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    low = config.train.precision == "bfloat16"
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", enabled=low):
        _loss(model.train(), images, _masked(config, 0.5))
    for hook in hooks:
        hook.remove()
    return held() - sum(blocks) + sum(inputs) + max(blocks, default=0)


def _masked(config: RunConfig, uniform: float) -> int:
    return masked_count(uniform, config.positions, config.train.mask_ratio_min, config.train.mask_ratio_deviation)


def _loss(model: Generator, images: int, masked: int) -> Tensor:
    """The loss of Generator.forward, behind the tokenizer, with as many masked positions in each image."""
    positions, tokenizer = model.positions, model.tokenizer
    embedded = torch.zeros(images, positions, tokenizer.embedding_width)
    seen = torch.arange(positions - masked).expand(images, -1)
    z = model.backbone.at(embedded, seen, torch.zeros(images, dtype=torch.int64))
    return _head_loss(model.head, z.flatten(0, 1)[: images * masked], tokenizer)


def _head_loss(head: Head, z: Tensor, tokenizer: Tokenizer) -> Tensor:
    target = torch.zeros(len(z), tokenizer.channels, dtype=tokenizer.dtype, device=z.device)
    return head.loss(z, target, torch.zeros(len(z), *(head.loss_noise_shape or (0,)), device=z.device))


def _head(config: RunConfig, tokenizer: Tokenizer) -> Head:
    channels = tokenizer.channels
    return build_head(config.head, config.backbone.width, channels, tokenizer.levels, tuple(range(channels)))


@contextmanager
def _without_values() -> Iterator[None]:
    """Tensors of the CPU without values: the meta device has no autocast; attention as products, which are counted."""
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        yield


def _counting() -> FlopCounterMode:
    from torch.utils.flop_counter import FlopCounterMode  # with triton, half a second

    return FlopCounterMode(display=False)
