"""Files of weights: safetensors, of which those that ship are in float16, and checkpoints; no code in them is run."""

from __future__ import annotations

import re
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import checked, file_hash, write_atomic, write_json
from tokenbridge.store.provenance import environment

MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""what torch.save put first before its files were zips"""
RUN_AGAIN = "delete its folder and run again"


def write_shipped(
    model: nn.Module,
    path: Path,
    command: str,
    settings: Mapping[str, Any],
    quality: Callable[[Path], Any],
    **about: Any,
) -> dict[str, Any]:
    """Write weights that ship, floating-point entries as float16, and their card in JSON beside them.

    Args:
        path: file to write, ending in .safetensors.
        command: the command of `tokenbridge` that trains these weights; settings are its options.
        quality: measures the weights as they were stored.
        about: more for the card.

    Returns:
        the card.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    write_atomic(path, save({key: value.contiguous().clone() for key, value in state.items()}))
    card = {
        "command": " ".join(["tokenbridge", command, *(f"--{key} {value}" for key, value in settings.items())]),
        **settings,
        "sha256": file_hash(path),
        "versions": environment()["versions"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "quality": quality(path),
        **about,
    }
    write_json(path.with_suffix(".json"), card)
    return card


def read(path: Path, remedy: str = RUN_AGAIN) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: the file.
        remedy: ends the message of an error.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return load_file(checked(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} must be a whole safetensors file ({kind_of_file(path) or error}); {remedy}") from error


def read_half(path: Path) -> dict[str, Tensor]:
    """Read the state of shipped weights, in float32."""
    state = read(path, "reinstall tokenbridge")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def read_checkpoint(path: Path, remedy: str, mmap: bool = False) -> Any:
    """Read what torch.save wrote, if it holds tensors, plain containers and argparse.Namespace alone.

    Released checkpoints keep their command's arguments in a Namespace, which holds attributes only.

    Args:
        remedy: end of the error's line where the file asks for another class or function, or is of another kind.
        mmap: leave tensors in the file until they are read.

    Raises:
        UserError: for a damaged file and for one that asks for any other class or function.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file ends in many kinds of error
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} asks for {found[1]}, which weights do not need; nothing of it was run: {remedy}"
            ) from error
        if kind := kind_of_file(path):
            raise UserError(f"{path} must be a whole checkpoint of torch.save and is {kind}; {remedy}") from error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} must be a whole checkpoint of torch.save ({reason}); download it again") from error


def kind_of_file(path: Path) -> str:
    """What a file is that holds no weights which can be read without running anything; empty where it may be one."""
    try:
        with path.open("rb") as file:
            first = file.read(512)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "a TorchScript, a program of which nothing was run"
            return "an .npz file of NumPy" if names and all(name.endswith(".npy") for name in names) else ""
        if tarfile.is_tarfile(path):
            return "a legacy tar of torch before 0.1.10, whose pickles can run code and were not read"
    except (OSError, zipfile.BadZipFile):
        return ""
    if not first:
        return "an empty file"
    if first.lstrip()[:1] == b"<":
        return "a page of HTML or XML"
    if first.startswith(b"\x93NUMPY"):
        return "a .npy file of NumPy"
    if first[:1] == b"\x80" and MAGIC not in first[:32]:
        return "a raw pickle, which can run code and was not read"
    if first.isascii() and first.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return "a text file"
    if first.startswith((b"\x1f\x8b", b"x\x01", b"x\x9c", b"x\xda", b"x^", b"BZh", b"\xfd7zXZ")):
        return "a compressed file, such as a pickle of joblib"
    return ""


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path, remedy: str = "correct the path") -> nn.Module:
    """Load a state into a model; returns the model, frozen and in evaluation mode.

    Args:
        model: what to fill.
        state: its weights by name.
        path: where they come from, for the message of an error.
        remedy: ends that message.

    Raises:
        UserError: a key or a shape does not match.
    """
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} must hold exactly the weights of {type(model).__name__} ({reason}); {remedy}"
        ) from error
    return model.eval().requires_grad_(False)
