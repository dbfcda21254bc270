"""What a configuration costs, counted before it runs, on tensors without values: they take no memory.

B image, L position, C channel, D width, U unmasked positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.autoencoders.frozen import build
from tokenbridge.config import RunConfig
from tokenbridge.model.backbone import Backbone
from tokenbridge.model.flops import MASK_RATIOS
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.contract import Head
from tokenbridge.model.masking import masked_after, masked_count
from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer, Tokenizer
from tokenbridge.tokenizers.trained import CODEBOOK, finish

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
    masked = [_masked(config, (i + 0.5) / MASK_RATIOS) for i in range(MASK_RATIOS)]
    backbone = _backbone_flops(config, [config.positions - count for count in masked], training=True)
    tokenizer = _tokenizer(config)
    with _without_values(), FlopCounterMode(display=False) as counter:
        z = torch.zeros(1, config.backbone.width, requires_grad=True)
        _head_loss(_head(config, tokenizer), z, tokenizer).sum().backward()
    an_image = sum(backbone) + sum(masked) * counter.get_total_flops()
    return an_image / MASK_RATIOS * config.train.batch


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
        _loss(model.train(), images, _masked(config, 0.5))
    for hook in hooks:
        hook.remove()
    return held() - sum(blocks) + sum(inputs) + max(blocks, default=0)


def _masked(config: RunConfig, uniform: float) -> int:
    return masked_count(uniform, config.positions, config.train.mask_ratio_min, config.train.mask_ratio_deviation)


def _loss(model: Generator, images: int, masked: int) -> Tensor:
    """Generator.forward behind the tokenizer, with as many masked positions in each image."""
    positions, tokenizer = model.positions, model.tokenizer
    embedded = torch.zeros(images, positions, tokenizer.embedding_width)
    seen = torch.arange(positions - masked).expand(images, -1)
    z = model.backbone.at(embedded, seen, torch.zeros(images, dtype=torch.int64))
    return _head_loss(model.head, z.flatten(0, 1)[: images * masked], tokenizer)


def _head_loss(head: Head, z: Tensor, tokenizer: Tokenizer) -> Tensor:
    target = torch.zeros(len(z), tokenizer.channels, dtype=tokenizer.dtype, device=z.device)
    return head.loss(z, target, torch.zeros(len(z), *(head.loss_noise_shape or (0,)), device=z.device))


@torch.no_grad()
def sampling_flops(config: RunConfig) -> float:
    """Operations of one more image in a batch: the backbone in each iteration, the head for each token drawn."""
    how, tokenizer = config.sample, _tokenizer(config)
    guided, left = how.guidance != 1, masked_after(config.positions, how.iterations)
    masked = [config.positions, *left[:-1]]
    backbone = _backbone_flops(config, [config.positions - count for count in masked], training=False)

    def drawn(tokens: int) -> int:
        with _without_values(), FlopCounterMode(display=False) as counter:
            head, z = _head(config, tokenizer).eval(), torch.zeros(tokens, config.backbone.width)
            head.sample(z, torch.zeros(tokens, *head.noise_shape(how)), how, z if guided else None, how.guidance)
            if how.confidence > 0:
                head.log_prob(z, torch.zeros(tokens, tokenizer.channels, dtype=tokenizer.dtype))
        return counter.get_total_flops()

    # the difference: what all tokens of a batch share, such as embeddings of time, counts for none
    tokens = sum(masked) if how.confidence > 0 else config.positions
    return (1 + guided) * sum(backbone) + tokens * (drawn(2) - drawn(1))


def _head(config: RunConfig, tokenizer: Tokenizer) -> Head:
    channels = tokenizer.channels
    return build_head(config.head, config.backbone.width, channels, tokenizer.levels, tuple(range(channels)))


@contextmanager
def _without_values() -> Iterator[None]:
    """Where a module asks for autocast, which the meta device has not; attention as products, which are counted."""
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        yield


def _backbone_flops(config: RunConfig, seen: list[int], training: bool) -> list[float]:
    """Of one image with so many unmasked positions each, with the backward pass in training.

    Linear in both depths and quadratic in the positions, so that few small backbones are counted.
    """
    encoder, decoder = config.backbone.encoder_depth - 1, config.backbone.decoder_depth - 1
    weights = {(1, 1): 1 - encoder - decoder, (2, 1): encoder, (1, 2): decoder}
    thin = {depths: _thin(config, *depths) for depths, weight in weights.items() if weight}

    def counted(count: int) -> float:
        return sum(weights[depths] * _count(config, backbone, count, training) for depths, backbone in thin.items())

    points = sorted(set(seen) if len(set(seen)) <= 3 else {0, config.positions // 2, config.positions})
    known = {point: counted(point) for point in points}

    def at(u: int) -> float:
        return sum(
            value * math.prod((u - other) / (point - other) for other in points if other != point)
            for point, value in known.items()
        )

    return [known[u] if u in known else at(u) for u in seen]


def _thin(config: RunConfig, encoder_depth: int, decoder_depth: int) -> Backbone:
    depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
    with META:
        settings = config.backbone.model_copy(update=depths)
        return Backbone(settings, config.positions, config.autoencoder.channels, config.data.classes)


def _count(config: RunConfig, backbone: Backbone, seen: int, training: bool) -> int:
    backbone.gradient_checkpointing = config.train.gradient_checkpointing
    embedded = torch.zeros(1, config.positions, backbone.embed.in_features, device=META)
    index = torch.zeros(1, seen, dtype=torch.int64, device=META)
    with FlopCounterMode(display=False) as counter:
        z = backbone.train(training).at(embedded, index, torch.zeros(1, dtype=torch.int64, device=META))
        if training:
            z.sum().backward()
    return counter.get_total_flops()


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
