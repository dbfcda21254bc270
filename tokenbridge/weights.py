"""Small weights as safetensors: stored in float16, computed in float32. Nothing from a file is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tokenbridge.artifacts import write_atomic
from tokenbridge.config import UserError


def write_half(model: nn.Module, path: Path) -> None:
    """Write a model's state, floating-point entries as float16."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    write_atomic(path, save({key: value.contiguous().clone() for key, value in state.items()}))


def read_half(path: Path) -> dict[str, Tensor]:
    """The state in float32, or UserError naming the file."""
    try:
        return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} must be a safetensors file of the shipped weights ({error}); reinstall tokenbridge"
        ) from error


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Load a state into a model, frozen and in evaluation mode; UserError where a key or a shape does not match."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} must hold exactly the weights of {type(model).__name__} ({reason}); correct the path"
        ) from error
    return model.eval().requires_grad_(False)
