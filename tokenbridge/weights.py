"""Files of weights: safetensors, of which those that ship are in float16, and checkpoints. Nothing of them is run."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import write_atomic

RUN_AGAIN = "delete its folder and run again"


def write_half(model: nn.Module, path: Path) -> None:
    """Write a model's state, floating-point entries as float16."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    write_atomic(path, save({key: value.contiguous().clone() for key, value in state.items()}))


def read(path: Path, remedy: str = RUN_AGAIN) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or UserError naming it."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} must be a whole safetensors file ({error}); {remedy}") from error


def read_half(path: Path) -> dict[str, Tensor]:
    """The state of shipped weights in float32."""
    state = read(path, "reinstall tokenbridge")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def read_checkpoint(path: Path, remedy: str, mmap: bool = False) -> Any:
    """What torch.save wrote, if it is tensors, plain containers and argparse.Namespace; UserError names anything else.

    Namespace holds attributes only: released checkpoints store their command's arguments with it. mmap: tensors stay in
    the file until they are read.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file ends in many kinds of error
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} asks for {found[1]}, which weights do not need; nothing of it was run: {remedy}"
            ) from error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} must be a whole checkpoint of torch.save ({reason}); download it again") from error


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path, remedy: str = "correct the path") -> nn.Module:
    """Load a state into a model, frozen and in evaluation mode; UserError where a key or a shape does not match."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} must hold exactly the weights of {type(model).__name__} ({reason}); {remedy}"
        ) from error
    return model.eval().requires_grad_(False)
