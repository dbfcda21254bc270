"""Weights of the released TokenBridge and MAR models under this project's names. Their code is never run."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from tokenbridge.config import UserError

# released name -> ours; the tensors keep their shape but for leading 1s
_NAMES = {
    r"class_emb\.weight": "backbone.class_embedding.weight",
    r"fake_latent": "backbone.unconditional",
    r"mask_token": "backbone.mask_token",
    r"z_proj\.(\w+)": r"backbone.embed.\1",
    r"z_proj_ln\.(\w+)": r"backbone.embed_norm.\1",
    r"decoder_embed\.(\w+)": r"backbone.decoder_embed.\1",
    r"(encoder|decoder)_norm\.(\w+)": r"backbone.\1_norm.\2",
    r"(encoder|decoder)_pos_embed_learned": r"backbone.\1_position",
    r"(output_pos_embed|diffusion_pos_embed_learned)": "backbone.output_position",
    r"(encoder|decoder)_blocks\.(\d+)\.(.+)": r"backbone.\1.\2.\3",
    r"condition_proj\.(\w+)": r"head.condition.\1",
    r"channel_embed": "head.position",
    r"timesteps_embeddings": "head.step",
    r"channel_blocks\.(\d+)\.(.+)": r"head.blocks.\1.\2",
    r"channel_norm\.(\w+)": r"head.norm.\1",
    r"channel_final\.adaLN_modulation\.1\.(\w+)": r"head.final_modulation.\1",
    r"diffloss\.net\.time_embed\.mlp\.(\d)\.(\w+)": r"head.net.time.\1.\2",
    r"diffloss\.net\.cond_embed\.(\w+)": r"head.net.condition.\1",
    r"diffloss\.net\.input_proj\.(\w+)": r"head.net.input.\1",
    r"diffloss\.net\.res_blocks\.(\d+)\.in_ln\.(\w+)": r"head.net.blocks.\1.norm.\2",
    r"diffloss\.net\.res_blocks\.(\d+)\.mlp\.(\d)\.(\w+)": r"head.net.blocks.\1.mlp.\2.\3",
    r"diffloss\.net\.final_layer\.linear\.(\w+)": r"head.net.output.\1",
}
_PARTS = {
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "attn.proj": "attention.project",
    "attn.qkv": "attention.qkv",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
    "adaLN_modulation.1": "modulation",
}
# released tensors that are rows of one of ours, by the number in the name; without a number they come last
_MODULATION = r"diffloss\.net\.(res_blocks\.(?P<row>\d+)|final_layer)\.adaLN_modulation\.1\.(?P<of>\w+)"
_ROWS = {
    r"channel_heads\.(?P<row>\d+)\.(?P<of>weight|bias)": "head.out_{of}",
    r"token_embeddings\.(?P<row>\d+)\.(?P<of>weight)": "head.embedding.{of}",
    _MODULATION: "head.net.modulation.{of}",
}
_VECTORS = ("backbone.unconditional", "backbone.mask_token")  # released with leading 1s
BUFFERS = {"boundaries", "reconstruction_values", "channel_mask"}  # recomputed from the config


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released TokenBridge or MAR state dict as the state dict of Generator.

    MAR's head becomes a diffusion head; with head.start=released it samples as released. UserError for a key that
    it does not know, or that two keys are the same weight of ours.
    """
    ours: dict[str, Tensor] = {}
    rows: dict[str, dict[float, Tensor]] = {}
    for key, value in state.items():
        if key in BUFFERS:
            continue
        name, row = _row(key) or (_rename(key), None)
        if name in ours or row in rows.get(name, {}):
            raise UserError(f"{key} is there under another name too, and only one can be {name}; give a whole release")
        if row is not None:
            rows.setdefault(name, {})[row] = value
            continue
        squeezed = value.squeeze(0) if value.dim() == 3 and len(value) == 1 else value
        ours[name] = squeezed.reshape(-1) if name in _VECTORS else squeezed
    for name, found in rows.items():
        gaps = [row for row in range(len(found) - (math.inf in found)) if row not in found]
        if gaps:
            raise UserError(f"part {gaps[0]} of {name} is missing; give a whole release")
        tensors = [found[row] for row in sorted(found)]
        ours[name] = torch.stack(tensors) if name.startswith("head.out_") else torch.cat(tensors)
    return ours


def _row(key: str) -> tuple[str, float] | None:
    """Our name and the number of the row, where the tensor is a row of ours."""
    for pattern, name in _ROWS.items():
        if found := re.fullmatch(pattern, key):
            return name.format(of=found["of"]), float(found["row"] or "inf")
    return None


def _rename(key: str) -> str:
    for pattern, name in _NAMES.items():
        if found := re.fullmatch(pattern, key):
            ours = found.expand(name)
            for released, part in _PARTS.items():
                ours = ours.replace(f".{released}.", f".{part}.")
            return ours
    raise UserError(
        f"{key} is no weight of a released TokenBridge or MAR model; give its checkpoint's 'model' or 'model_ema'"
    )
