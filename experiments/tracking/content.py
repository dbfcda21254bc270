"""The content of one MLflow run as plain values, and what the records of cells, trainings, sweeps and reports share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["RUNNING", "FINISHED", "FAILED"]


@dataclass(frozen=True)
class Content:
    """One MLflow run."""

    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    points: list[list[Any]] = field(default_factory=list)
    """of curves: [key, value, timestamp in ms, step]"""
    files: dict[str, bytes] = field(default_factory=dict)
    """content by the path of the artifact"""
    dataset: tuple[str, str, str] | None = None
    """name, digest, source"""
    seconds: float = 0.0
    """how long it took"""
    started: float = 0.0
    """seconds since 1970, where it is known"""
    status: Status = "FINISHED"
    error: str = ""
    """last line of what made it fail"""
    note: str = ""
    """Markdown that its page shows"""
    model: dict[str, str] = field(default_factory=dict)
    """tags of the model that it trained, whose weights stay where they are; none where it trained none"""
    card: str = ""
    """the model's card"""
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


def title_of(record: Record) -> str:
    """What its run is called: a cell of several names has the shortest, for the page cuts long ones."""
    return getattr(record, "title", record.name)


def key_of(record: Record) -> str:
    """The key of a record among all: its kind and its id."""
    return f"{record.kind}/{record.id}"
