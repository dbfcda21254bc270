"""Checkpoints of the released TokenBridge and MAR models into the `train` stage of a config. Nothing in them is run.

All that can be wrong is found before memory is taken: the file is memory-mapped, and shapes are compared with those of
a model that holds no values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from tokenbridge.config import RunConfig, UserError
from tokenbridge.model.costs import empty_generator
from tokenbridge.store.artifacts import file_hash, write_atomic
from tokenbridge.store.runs import write_metrics
from tokenbridge.tokenizers.levels import gaussian_bounds, gaussian_centers
from tokenbridge.weights import read_checkpoint

State = Mapping[str, Tensor]
_SIZES = {768: "B", 1024: "L", 1280: "H"}  # by the width of the backbone

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
BUFFERS = {"boundaries", "reconstruction_values", "channel_mask"}
"""released names of what is recomputed from the config"""


@dataclass(frozen=True)
class Released:
    """Last and averaged weights of a checkpoint under their released names, still in the file."""

    path: Path
    model: State
    ema: State

    @property
    def id(self) -> str:
        """train.released: the beginning of the file's SHA-256."""
        return f"sha256:{file_hash(self.path)[:12]}"

    @property
    def name(self) -> str:
        """Name of the model whose width and kind of head these weights have, or nothing."""
        classes = self.model.get("class_emb.weight")
        size = _SIZES.get(classes.shape[-1] if classes is not None and classes.dim() else 0)
        family = "mar" if any(key.startswith("diffloss.") for key in self.model) else "tokenbridge"
        return f"{family}-{size}" if size else ""


def read_released(path: Path) -> Released:
    """Map a checkpoint into memory. UserError where it is missing, damaged, holds code or lacks a set of weights."""
    if not path.is_file():
        raise UserError(f"{path} is no file; give the path of a released checkpoint-last.pth")
    content = read_checkpoint(path, "get the file from its release again", mmap=True)
    return Released(path, _weights(path, content, "model"), _weights(path, content, "model_ema"))


def _weights(path: Path, content: Any, key: str) -> State:
    if not isinstance(content, dict) or key not in content:
        there = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} must hold both 'model' and 'model_ema', and {key!r} is not in it: it holds {there}")
    state = content[key]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in state.items()
    ):
        raise UserError(f"{path}: {key!r} must be tensors by name, a state dict; get the file from its release again")
    return {name: value.detach() for name, value in state.items()}


def require_fit(weights: Released, config: RunConfig) -> None:
    """Refuse released weights that are not exactly those of the config's generator.

    Args:
        weights: both sets, the last and the averaged ones, are checked.
        config: names backbone, head and tokens.

    Raises:
        UserError: names the weight and the shape that it must have, or the value that is not finite.
    """
    config.require_pair()
    wanted = {name: tuple(value.shape) for name, value in empty_generator(config).named_parameters()}
    for key, state in (("model", weights.model), ("model_ema", weights.ema)):
        there = f"{weights.path}, {key!r}"
        try:
            renamed = from_released({name: value.to("meta") for name, value in state.items()})
        except UserError as error:
            raise UserError(f"{there}: {error}") from None
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{there}: parts of a weight do not go together ({reason}); {_remedy(weights)}") from error
        for name in [*wanted, *renamed]:
            ours, shape = wanted.get(name), tuple(renamed[name].shape) if name in renamed else None
            if shape != ours:
                lacks = f"has {shape or 'no value'} for {name}, which must be {ours or 'absent'}"
                raise UserError(f"{there} {lacks} in this model; {_remedy(weights)}")
        for name, value in state.items():
            if name not in BUFFERS and not (value.is_floating_point() and bool(torch.isfinite(value).all())):
                raise UserError(f"{there}: {name} must be finite floats; get the file from its release again")
    _require_buffers(weights, config)


def require_told(config: RunConfig, release: RunConfig, given: Collection[str]) -> None:
    """Raise UserError where the backbone's numbers of attention heads, which no weight tells, have not been given.

    Those of the head follow from its weights: queries and keys are normalised per attention head.

    Args:
        release: the configuration of the released model; where sizes are its own, so are the heads.
        given: settings by name (backbone.heads) that the user gave.
    """
    for size in ("width", "encoder_depth", "decoder_depth"):
        ours, theirs = getattr(config.backbone, size), getattr(release.backbone, size)
        missing = [name for name in ("backbone.heads", "backbone.decoder_heads") if name not in given]
        if ours != theirs and missing:
            raise UserError(
                f"backbone.{size}={ours} is not the release's {theirs}, and weights do not tell the number of attention"
                f" heads: {missing[0]} must be given; give the one that they were trained with"
            )


def _remedy(weights: Released) -> str:
    settings = "settings such as head.depth"
    if not weights.name:
        return f"correct --as or {settings}"
    return f"its backbone is that of --as {weights.name}: correct that or {settings}"


def _require_buffers(weights: Released, config: RunConfig) -> None:
    """Raise UserError unless buffers are those that the config computes; the averaged weights may have none."""
    quantizer, expected = config.quantizer, dict[str, Any]()
    if config.token_levels:
        if quantizer.kind != "gaussian" or quantizer.edges != "clamped" or quantizer.per != "tensor":
            raise UserError(
                f"quantizer.kind={quantizer.kind}, edges={quantizer.edges}, per={quantizer.per} must be gaussian,"
                " clamped and tensor for released weights, which read those levels"
            )
        levels, r, channels = quantizer.levels_each, quantizer.std_range, config.autoencoder.channels
        expected["boundaries"] = gaussian_bounds(levels, r)
        expected["reconstruction_values"] = gaussian_centers(levels, r)
        expected["channel_mask"] = np.triu(np.full((channels, channels), -np.inf), 1)
    for key, state in (("model", weights.model), ("model_ema", weights.ema)):
        for name in BUFFERS.intersection(state) | (set(expected) if key == "model" else set()):
            if name not in expected or name not in state or not _equal(state[name], expected[name]):
                what = "must be" if name in expected else "must be absent, as"
                raise UserError(
                    f"{weights.path}, {key!r}: {name} {what} that of quantizer.kind={quantizer.kind},"
                    f" levels={quantizer.levels} and std_range={quantizer.std_range:g}; correct these settings"
                )


def _equal(buffer: Tensor, expected: np.ndarray) -> bool:
    return buffer.shape == expected.shape and np.allclose(buffer.float().numpy(), expected, rtol=0, atol=1e-5)


def write_released(weights: Released, config: RunConfig, out: Path) -> None:
    """Write what a finished training leaves: averaged and last weights, and their metrics and protocol.

    Args:
        weights: checked by `require_fit`.
        config: whose train.released names them.
        out: the stage's folder, while it is written.
    """
    for name, state in (("model", weights.ema), ("model_raw", weights.model)):
        # clones: of parts of one tensor, safetensors would take the whole
        ours = {key: value.float().contiguous().clone() for key, value in from_released(dict(state)).items()}
        write_atomic(out / f"{name}.safetensors", save(ours))
    model = empty_generator(config)
    counts = {"parameters": model, "head_parameters": model.head}
    metrics = {name: sum(p.numel() for p in part.parameters()) for name, part in counts.items()}
    write_metrics(out, metrics, {"weights": config.train.released})


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released TokenBridge or MAR state dict as the state dict of Generator.

    MAR's head becomes a diffusion head, which samples as released with head.start=released. UserError for an unknown
    key, for two keys of one weight and for a missing part.
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
    for name, parts in rows.items():
        gaps = [row for row in range(len(parts) - (math.inf in parts)) if row not in parts]
        if gaps:
            raise UserError(f"part {gaps[0]} of {name} is missing; give a whole release")
        tensors = [parts[row] for row in sorted(parts)]
        ours[name] = torch.stack(tensors) if name.startswith("head.out_") else torch.cat(tensors)
    return ours


def _row(key: str) -> tuple[str, float] | None:
    """Our name and the row's number, where a released tensor is a row of one of ours."""
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
