"""What a configuration costs, counted before it runs, on tensors without values: they take no memory.

B image, L position, C channel, D width, U unmasked positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.autoencoder import build
from tokenbridge.config import RunConfig
from tokenbridge.flops import MASK_RATIOS
from tokenbridge.generator import Generator
from tokenbridge.masking import masked_after, masked_count
from tokenbridge.quantizers import IdentityQuantizer, ScalarQuantizer, Tokenizer
from tokenbridge.tokenizers import CODEBOOK, finish

META = torch.device("meta")


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def empty_generator(config: RunConfig) -> Generator:
    """The config's generator without values; its tokenizer has some, of no meaning."""
    tokenizer = _tokenizer(config)
    with META:
        return Generator(config, tokenizer, tuple(range(tokenizer.channels)))


def _tokenizer(config: RunConfig) -> Tokenizer:
    levels, channels = config.token_levels, config.autoencoder.channels
    extremes = torch.zeros(2, channels)
    if not levels:
        return IdentityQuantizer(extremes)
    if config.quantizer.trained:
        return finish(config, {CODEBOOK: torch.zeros(1, levels[0], channels)}, 1.0, extremes)
    return ScalarQuantizer(torch.arange(levels[0])[None].float(), extremes)


def training_step_flops(config: RunConfig) -> float:
    """Operations of one step on the global batch: flops.training_flops without running it.

    Attention counts as its two products, forward and backward.
    """
    model, total = empty_generator(config).train(), 0
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    for i in range(MASK_RATIOS):
        with FlopCounterMode(display=False) as counter:
            _loss(model, 1, _masked(config, (i + 0.5) / MASK_RATIOS), META).sum().backward()
        total += counter.get_total_flops()
    return total / MASK_RATIOS * config.train.batch


def activation_bytes(config: RunConfig, images: int) -> int:
    """What the operators keep of a forward pass of so many images for the backward pass, half of the batch's masks
    having fewer masked positions.

    As PyTorch's operators on a CPU keep it, in the training's precision, each tensor once; with gradient checkpointing,
    the input of each block of the backbone and one block's own.
    """
    tokenizer = _tokenizer(config)
    with FakeTensorMode():
        model = Generator(config, tokenizer, tuple(range(tokenizer.channels)))
        return saved_bytes(model, config, images)


def saved_bytes(model: Generator, config: RunConfig, images: int) -> int:
    """activation_bytes of this model, with values or without."""
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
        _loss(model.train(), images, _masked(config, 0.5), torch.device("cpu"))
    for hook in hooks:
        hook.remove()
    return held() - sum(blocks) + sum(inputs) + max(blocks, default=0)


def _masked(config: RunConfig, uniform: float) -> int:
    return masked_count(uniform, config.positions, config.train.mask_ratio_min, config.train.mask_ratio_deviation)


def _loss(model: Generator, images: int, masked: int, device: torch.device) -> Tensor:
    """Generator.forward behind the tokenizer, with as many masked positions in each image."""
    positions, tokenizer, head = model.positions, model.tokenizer, model.head
    embedded = torch.zeros(images, positions, tokenizer.embedding_width, device=device)
    seen = torch.arange(positions - masked, device=device).expand(images, -1)
    z = model.backbone.at(embedded, seen, torch.zeros(images, dtype=torch.int64, device=device))
    rows = images * masked
    target = torch.zeros(rows, tokenizer.channels, dtype=tokenizer.dtype, device=device)
    return head.loss(z.flatten(0, 1)[:rows], target, torch.zeros(rows, *(head.loss_noise_shape or (0,)), device=device))


@torch.no_grad()
def sampling_flops(config: RunConfig) -> float:
    """Operations of one image's tokens: the backbone in each iteration, the head for each token that it draws."""
    model, how = empty_generator(config).eval(), config.sample
    guided, left = how.guidance != 1, masked_after(config.positions, how.iterations)
    masked = [config.positions, *left[:-1]]
    total = (1 + guided) * sum(_backbone_flops(model, [config.positions - count for count in masked]))
    z = torch.zeros(1, config.backbone.width, device=META)
    noise = torch.zeros(1, *model.head.noise_shape(how), device=META)
    target = torch.zeros(1, model.tokenizer.channels, dtype=model.tokenizer.dtype, device=META)
    with FlopCounterMode(display=False) as counter:
        model.head.sample(z, noise, how, z if guided else None, how.guidance)
        if how.confidence > 0:
            model.head.log_prob(z, target)
    return total + counter.get_total_flops() * (sum(masked) if how.confidence > 0 else config.positions)


def _backbone_flops(model: Generator, seen: list[int]) -> list[float]:
    """Of one image with so many unmasked positions each: a polynomial of second degree, so three are counted."""

    def counted(count: int) -> int:
        embedded = torch.zeros(1, model.positions, model.tokenizer.embedding_width, device=META)
        index = torch.zeros(1, count, dtype=torch.int64, device=META)
        with FlopCounterMode(display=False) as counter:
            model.backbone.at(embedded, index, torch.zeros(1, dtype=torch.int64, device=META))
        return counter.get_total_flops()

    if len(seen) <= 3:
        return [counted(count) for count in seen]
    a, b, c = 0, model.positions // 2, model.positions
    at_a, at_b, at_c = (counted(count) for count in (a, b, c))

    def between(u: int) -> float:
        return (
            at_a * (u - b) * (u - c) / ((a - b) * (a - c))
            + at_b * (u - a) * (u - c) / ((b - a) * (b - c))
            + at_c * (u - a) * (u - b) / ((c - a) * (c - b))
        )

    return [between(count) for count in seen]


@torch.no_grad()
def autoencoder_costs(settings: Mapping[str, Any], image_size: int) -> dict[str, int]:
    """Parameters of an AutoencoderKL with these settings, and the operations of an image each way."""
    with META:
        model = build(settings).eval()
        images = torch.zeros(1, settings.get("in_channels", 3), image_size, image_size)
    with FlopCounterMode(display=False) as encoding:
        latents = model.encode(images).latent_dist.mean
    with FlopCounterMode(display=False) as decoding:
        model.decode(latents)
    return {
        "encoder": parameters(model.encoder, *filter(None, [model.quant_conv])),
        "decoder": parameters(model.decoder, *filter(None, [model.post_quant_conv])),
        "encode": encoding.get_total_flops(),
        "decode": decoding.get_total_flops(),
    }
