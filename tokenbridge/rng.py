"""Randomness is data: each draw has a key, and the same key gives the same draw on every machine and batch size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key such as (seed, "train", step, index)."""
    text = "/".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that starts from the key's seed."""
    return torch.Generator().manual_seed(seed_of(*key))


@contextmanager
def drawn_from(*key: int | str, device: torch.device = CPU) -> Iterator[None]:
    """A block in which what torch and libraries draw by themselves starts from the key's seed, and leaves no trace.

    Args:
        key: as of `seed_of`.
        device: where they draw beside the CPU; no other GPU is started or seeded.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed_of(*key))
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed_of(*key))
        yield
