"""Weights of the released TokenBridge models under this project's names. Their code is never run."""

from __future__ import annotations

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
    r"output_pos_embed": "backbone.output_position",
    r"(encoder|decoder)_blocks\.(\d+)\.(.+)": r"backbone.\1.\2.\3",
    r"condition_proj\.(\w+)": r"head.condition.\1",
    r"channel_embed": "head.position",
    r"timesteps_embeddings": "head.step",
    r"channel_blocks\.(\d+)\.(.+)": r"head.blocks.\1.\2",
    r"channel_norm\.(\w+)": r"head.norm.\1",
    r"channel_final\.adaLN_modulation\.1\.(\w+)": r"head.final_modulation.\1",
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
_STACKED = {"channel_heads": "out", "token_embeddings": "embedding"}
_BUFFERS = {"boundaries", "reconstruction_values", "channel_mask"}  # recomputed from the config


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released TokenBridge state dict as the state dict of Generator. Raises UserError for a key it does not know."""
    ours: dict[str, Tensor] = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if key in _BUFFERS:
            continue
        if found := re.fullmatch(r"(channel_heads|token_embeddings)\.(\d+)\.(weight|bias)", key):
            stacked.setdefault(f"{_STACKED[found[1]]}_{found[3]}", {})[int(found[2])] = value
            continue
        name = _rename(key)
        ours[name] = value.squeeze(0) if value.dim() == 3 and len(value) == 1 else value
    ours["backbone.unconditional"] = ours["backbone.unconditional"].reshape(-1)
    ours["backbone.mask_token"] = ours["backbone.mask_token"].reshape(-1)
    parts = {name: torch.stack([rows[i] for i in sorted(rows)]) for name, rows in stacked.items()}
    ours["head.out_weight"], ours["head.out_bias"] = parts["out_weight"], parts["out_bias"]
    ours["head.embedding.weight"] = parts["embedding_weight"].flatten(0, 1)
    return ours


def _rename(key: str) -> str:
    for pattern, name in _NAMES.items():
        if found := re.fullmatch(pattern, key):
            ours = found.expand(name)
            for released, part in _PARTS.items():
                ours = ours.replace(f".{released}.", f".{part}.")
            return ours
    raise UserError(f"{key} is no weight of a released TokenBridge model; give its checkpoint's 'model' or 'model_ema'")
