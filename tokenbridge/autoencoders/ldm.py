"""Autoencoders with a KL posterior of latent diffusion (CompVis; kl16.ckpt of MAR) as diffusers' AutoencoderKL.

Both are the same function: the names differ, levels of the decoder are counted from the other end, and the attention's
1×1 convolutions are linear layers. No code of a file is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenbridge.config import UserError
from tokenbridge.weights import read_checkpoint

GROUPS = 32
"""groups of every normalisation: a constant of the LDM code, the one size that the weights do not tell"""

# diffusers' name -> LDM's
_PARTS = {
    r"encoder\.down_blocks\.(\d+)\.": r"encoder.down.\1.",
    r"decoder\.up_blocks\.(\d+)\.": r"decoder.up.\1.",
    r"\.mid_block\.resnets\.0\.": ".mid.block_1.",
    r"\.mid_block\.resnets\.1\.": ".mid.block_2.",
    r"\.mid_block\.attentions\.0\.": ".mid.attn_1.",
    r"\.resnets\.": ".block.",
    r"\.attentions\.": ".attn.",
    r"\.(down|up)samplers\.0\.": r".\1sample.",
    r"\.conv_shortcut\.": ".nin_shortcut.",
    r"\.conv_norm_out\.": ".norm_out.",
    r"\.group_norm\.": ".norm.",
    r"\.to_([qkv])\.": r".\1.",
    r"\.to_out\.0\.": ".proj_out.",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The autoencoder's tensors in a checkpoint, below `model` or `state_dict` or at the top; its loss left out."""
    state = read_checkpoint(path, "save its state dict alone")
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping):
        raise UserError(f"{path} must hold a state dict, and holds a {type(state).__name__}; correct autoencoder.path")
    state = {str(key): value for key, value in state.items() if not str(key).startswith("loss.")}
    for key, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UserError(
                f"{path} must hold the tensors of an LDM autoencoder, and its {key} is a"
                f" {getattr(value, 'dtype', type(value).__name__)}; correct autoencoder.path"
            )
    return state


def settings_of(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Settings of diffusers' AutoencoderKL for these weights: all sizes follow from theirs."""

    def size(key: str, axis: int) -> int:
        if key not in state or state[key].dim() <= axis:
            raise UserError(
                f"{path} must hold {key} as an LDM autoencoder with a KL posterior has it; correct autoencoder.path"
            )
        return state[key].shape[axis]

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=0)

    image_channels = size("encoder.conv_in.weight", 1)
    levels = range(count(r"encoder\.down\.(\d{1,3})\."))
    widths = tuple(size(f"encoder.down.{level}.block.0.conv1.weight", 0) for level in levels)
    wrong = [width for width in widths if width < GROUPS or width % GROUPS]
    if wrong:
        raise UserError(
            f"{path} has {wrong[0]} channels in a level, which must be a multiple of {GROUPS} in an LDM autoencoder;"
            " correct autoencoder.path"
        )
    if size("decoder.conv_out.weight", 0) != image_channels:
        raise UserError(
            f"{path} gives images of {size('decoder.conv_out.weight', 0)} channels from those of {image_channels},"
            " which must be as many; correct autoencoder.path"
        )
    attends = [f"encoder.down.{level}.attn.0.norm.weight" in state for level in levels]
    attends_up = [f"decoder.up.{level}.attn.0.norm.weight" in state for level in reversed(levels)]
    return {
        "in_channels": image_channels,
        "out_channels": size("decoder.conv_out.weight", 0),
        "down_block_types": tuple("AttnDownEncoderBlock2D" if there else "DownEncoderBlock2D" for there in attends),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if there else "UpDecoderBlock2D" for there in attends_up),
        "block_out_channels": widths,
        "layers_per_block": count(r"encoder\.down\.0\.block\.(\d{1,2})\."),
        "latent_channels": size("post_quant_conv.weight", 1),
        "norm_num_groups": GROUPS,
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in state,
    }


def ldm_names(model: Mapping[str, Tensor]) -> dict[str, str]:
    """LDM's name of each weight -> its name in this state dict of an AutoencoderKL."""
    levels = sum(bool(re.fullmatch(r"decoder\.up_blocks\.\d+\.resnets\.0\.conv1\.weight", key)) for key in model)
    names: dict[str, str] = {}
    for key in model:
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{levels - 1 - int(found[1])}", key)
        for pattern, part in _PARTS.items():
            name = re.sub(pattern, part, name)
        names[name] = key
    return names


def converted(state: Mapping[str, Tensor], model: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """LDM's weights under the names and in the shapes of this AutoencoderKL's state dict: all of both, or UserError."""
    names = ldm_names(model)
    wrong = [f"{key} is none of its weights" for key in state if key not in names]
    wrong += [f"{key} is missing" for key in names if key not in state]
    ours: dict[str, Tensor] = {}
    for key in state.keys() & names.keys():
        tensor, wanted = state[key], model[names[key]].shape
        if tensor.dim() == 4 and len(wanted) == 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        if tensor.shape != wanted:
            wrong.append(f"{key} is of {list(tensor.shape)} and must be of {list(wanted)}")
        ours[names[key]] = tensor
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(
            f"{path} must hold exactly the weights of an LDM autoencoder, and {wrong[0]}{more}; correct"
            " autoencoder.path"
        )
    return ours
