"""Checkpoints of the released TokenBridge and MAR models into the `train` stage of a config. Nothing in them is run.

All that can be wrong is found before memory is taken: the file is memory-mapped, and shapes are compared with those of
a model that holds no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from tokenbridge.config import RunConfig, UserError
from tokenbridge.exchange.checkpoints import BUFFERS, from_released
from tokenbridge.model.costs import empty_generator
from tokenbridge.store.artifacts import file_hash, write_atomic
from tokenbridge.store.runs import write_metrics
from tokenbridge.tokenizers.levels import gaussian_bounds, gaussian_centers
from tokenbridge.weights import read_checkpoint

State = Mapping[str, Tensor]
_SIZES = {768: "B", 1024: "L", 1280: "H"}  # by the width of the backbone


@dataclass(frozen=True)
class Released:
    """Both sets of weights of a checkpoint under their released names, still in the file."""

    path: Path
    model: State
    ema: State

    @property
    def id(self) -> str:
        """train.released: the beginning of the file's SHA-256."""
        return f"sha256:{file_hash(self.path)[:12]}"

    @property
    def name(self) -> str:
        """What the weights look like by their width and the kind of head, or nothing."""
        classes = self.model.get("class_emb.weight")
        size = _SIZES.get(classes.shape[-1] if classes is not None and classes.dim() else 0)
        family = "mar" if any(key.startswith("diffloss.") for key in self.model) else "tokenbridge"
        return f"{family}-{size}" if size else ""


def read_released(path: Path) -> Released:
    """Map a checkpoint. UserError: missing, damaged, with another class or function in it, without both weights."""
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
    """Raise UserError unless both sets of weights are exactly those of the config's generator."""
    config.require_pair()
    wanted = {name: tuple(value.shape) for name, value in empty_generator(config).named_parameters()}
    for key, state in (("model", weights.model), ("model_ema", weights.ema)):
        there = f"{weights.path}, {key!r}"
        try:
            found = from_released({name: value.to("meta") for name, value in state.items()})
        except UserError as error:
            raise UserError(f"{there}: {error}") from None
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{there}: parts of a weight do not go together ({reason}); {_remedy(weights)}") from error
        for name in [*wanted, *found]:
            ours, shape = wanted.get(name), tuple(found[name].shape) if name in found else None
            if shape != ours:
                lacks = f"has {shape or 'no value'} for {name}, which must be {ours or 'absent'}"
                raise UserError(f"{there} {lacks} in this model; {_remedy(weights)}")
        for name, value in state.items():
            if name not in BUFFERS and not (value.is_floating_point() and bool(torch.isfinite(value).all())):
                raise UserError(f"{there}: {name} must be finite floats; get the file from its release again")
    _require_buffers(weights, config)


def _remedy(weights: Released) -> str:
    settings = "settings such as head.depth"
    if not weights.name:
        return f"correct --as or {settings}"
    return f"its backbone is that of --as {weights.name}: correct that or {settings}"


def _require_buffers(weights: Released, config: RunConfig) -> None:
    """Buffers, which are computed and not trained, are those of the config; the EMA's may be missing, not differ."""
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


def _equal(found: Tensor, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(found.float().numpy(), expected, rtol=0, atol=1e-5)


def write_released(weights: Released, config: RunConfig, out: Path) -> None:
    """What a finished training leaves: averaged and last weights, and what is known of them."""
    for name, state in (("model", weights.ema), ("model_raw", weights.model)):
        # clones: of parts of one tensor, safetensors would take the whole
        ours = {key: value.float().contiguous().clone() for key, value in from_released(dict(state)).items()}
        write_atomic(out / f"{name}.safetensors", save(ours))
    model = empty_generator(config)
    counts = {"parameters": model, "head_parameters": model.head}
    metrics = {name: sum(p.numel() for p in part.parameters()) for name, part in counts.items()}
    write_metrics(out, metrics, {"weights": config.train.released})
