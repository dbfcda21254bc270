"""Programs among the weights of scorers, and which are known: clean-fid's and CLIP's TorchScript, DINOv2's repository.

What is known runs; anything else is refused unless --trust-weights says otherwise. What runs is a private copy of the
bytes that were hashed. Needs no torch.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenbridge.config import Runtime, Score, UserError
from tokenbridge.metrics.scorers import SCORERS, Scorer, weights_of
from tokenbridge.store.artifacts import writable


@dataclass(frozen=True)
class Program:
    """What of a scorer's weights is run."""

    scorer: Scorer
    place: Path
    """the file, or the folder of the repository"""
    files: Mapping[str, bytes]
    """content by path below the place"""

    @cached_property
    def hash(self) -> str:
        """SHA-256, hex: of the file; of a repository, that of the lines that sha256sum prints for its modules."""
        if not self.scorer.code:
            (content,) = self.files.values()
            return hashlib.sha256(content).hexdigest()
        lines = (f"{hashlib.sha256(self.files[name]).hexdigest()}  {name}\n" for name in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def known(self) -> bool:
        return self.hash in self.scorer.programs

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """A private folder with these bytes and nothing else, such as no compiled module beside a source."""
        with tempfile.TemporaryDirectory(prefix="tokenbridge-") as name, writable(Path(name), "TMPDIR"):
            for path, content in self.files.items():
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_bytes(content)
            yield Path(name)


def program_of(score: Score, name: str) -> Program | None:
    """What of a scorer's weights is run; None where they are numbers alone.

    Raises:
        UserError: the weights are not to be had, or cannot be read.
    """
    scorer, path = SCORERS[name], weights_of(score, name)
    if not scorer.programs:
        return None
    place = path.parent.parent / scorer.code if scorer.code else path
    try:
        if not scorer.code:
            return Program(scorer, place, {path.name: path.read_bytes()})
        package = place / "dinov2"
        modules = [place / "hubconf.py", *(sorted(package.rglob("*.py")) if package.is_dir() else ())]
        return Program(scorer, place, {module.relative_to(place).as_posix(): module.read_bytes() for module in modules})
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}); get it again from {scorer.source}") from error


def code_hash(score: Score, name: str) -> str:
    """Hash of the repository that a scorer runs beside its weights, empty for one without; see Program.hash."""
    program = program_of(score, name) if SCORERS[name].code else None
    return program.hash if program is not None else ""


def require_known(score: Score, runtime: Runtime) -> None:
    """Refuse weights of the scorers that would run a program which nobody knows.

    Raises:
        UserError: names the program, its hash and where the known one is.
    """
    for name in score.scorers:
        if not runtime.trust_weights and (program := program_of(score, name)) is not None:
            require(program)


def require(program: Program) -> None:
    """Refuse a program that is not known; see require_known."""
    if program.known:
        return
    scorer = program.scorer
    what, origin = "is a TorchScript, which runs what is in it", scorer.source
    if scorer.code:
        what, origin = "is code that runs", scorer.code_source
    raise UserError(
        f"{program.place} {what}, and its SHA-256 {program.hash[:12]} is none that is known; get it from {origin}, or"
        " give --trust-weights where you trust who wrote it"
    )
