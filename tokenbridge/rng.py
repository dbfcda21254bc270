"""Randomness is data: each draw has a key, and the same key gives the same draw on every machine and batch size."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key such as (seed, "train", step, index)."""
    text = "/".join(str(part) for part in key).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that starts from the key's seed."""
    return torch.Generator().manual_seed(seed_of(*key))
