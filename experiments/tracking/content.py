"""What one MLflow run shall hold, as plain values, and how settings and provenance are spelled there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tokenbridge.overrides import flatten

Status = Literal["RUNNING", "FINISHED", "FAILED"]


@dataclass(frozen=True)
class Content:
    """One MLflow run. points: journal lines [key, value, timestamp in ms, step]; files: artifact path -> bytes."""

    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    points: list[list[Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    dataset: tuple[str, str, str] | None = None
    """name, digest, source"""
    seconds: float = 0.0
    started: float = 0.0
    """seconds since 1970, where it is known"""
    status: Status = "FINISHED"
    error: str = ""
    """last line of what made it fail"""
    note: str = ""
    """Markdown that its page shows"""
    view: dict[str, Any] = field(default_factory=dict)
    """how MLflow's page lists what lies under it"""


class Record(Protocol):
    """Something that has one MLflow run. signature is cheap and changes whenever content() does."""

    kind: str
    id: str
    name: str
    signature: str
    parent: str
    """key of the record whose run its own run lies under, or nothing"""

    def content(self) -> Content: ...


def key_of(record: Record) -> str:
    return f"{record.kind}/{record.id}"


def spell(value: Any) -> str:
    """A parameter as text that reads back exactly: JSON, and words as they are unless they would read as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError:
            return value
    return json.dumps(value)


def provenance(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Code, libraries, machine and job of the stages; where they differ, each value once, in the order of the stages"""
    seen: dict[str, dict[str, None]] = {}
    for kind, manifest in manifests.items():
        job = manifest.get("job") or {}
        flat = flatten({"git": manifest.get("git") or {}, "version": manifest.get("versions") or {}})
        flat |= {
            "host": manifest.get("host"),
            "cpu": manifest.get("cpu"),
            f"seconds.{kind}": manifest.get("wall_seconds"),
            f"slurm.job_id.{kind}": job.get("id"),
            f"slurm.restarts.{kind}": job.get("restarts"),
        }
        for key, value in flat.items():
            if value is not None:
                seen.setdefault(key, {})[spell(value) if isinstance(value, bool) else str(value)] = None
    return {key: ", ".join(values) for key, values in seen.items()}
