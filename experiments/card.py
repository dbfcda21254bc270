"""`tokenbridge speed --minutes`: the speed of one device, part by part, and the report over all devices measured.

Each device has a file of its own in the report's folder, written after each number; report.md shows them side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.presets import preset
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import new_file, write_atomic

if TYPE_CHECKING:
    from tokenbridge.speed.card import Row, Size

SIZES = ("small", "B", "L", "H")
"""small: the digits' model, for a dry form on a CPU; the others: the paper's"""
_DIFFUSION = {"head.kind": "diffusion", "quantizer.kind": "identity"}
NO_GPU = "nothing was measured on a GPU: none was to be had"
TITLE = "# Speed by device"


def size_of(name: str, gpu: bool) -> Size:
    """What is measured of a size.

    Args:
        name: one of SIZES.
        gpu: whether the device is one.

    Raises:
        UserError: another name, or a size that takes a CPU hours.
    """
    from tokenbridge.speed.card import Size

    if name not in SIZES:
        raise UserError(f"--size={name} must be one of {', '.join(SIZES)}")
    if name == "small":
        config = preset("digits")
        return Size(name, config, override(config, _DIFFUSION), (1, 16), (64,), (config.sample.iterations,), 3)
    if not gpu:
        raise UserError(f"--size={name} needs a GPU: on a CPU an image takes minutes; take --size small")
    config = override(preset(f"imagenet256-{name}"), {"head.order": "stored"})
    return Size(name, config, preset(f"imagenet256-mar-{name}"), (1, 16, 64, 256), (64, 256), (32, 256), 10)


def run(runtime: Runtime, size: str | None, minutes: float, folder: Path) -> tuple[list[Row], Path]:
    """Measure a device, save each number as it is measured, and write the report.

    Args:
        runtime: its device and threads.
        size: one of SIZES; None: L on a GPU, small on a CPU.
        minutes: for all parts together.
        folder: of the report.

    Returns:
        The rows, and the report.
    """
    import torch

    from tokenbridge.devices import pick_device
    from tokenbridge.speed.card import measure
    from tokenbridge.speed.measurement import one_thread

    device = pick_device(runtime)
    chosen = size_of(size or ("L" if device.type == "cuda" else "small"), device.type == "cuda")
    about = _about(device, chosen.name, minutes)
    path = folder / f"{_slug(about['device'])}-{chosen.name}.json"

    def save(rows: Sequence[Row]) -> None:
        content = about | {"rows": [row._asdict() for row in rows]}
        write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False).encode())

    with one_thread(device, runtime), new_file(path, "--reports"):
        about |= {"threads": torch.get_num_threads()}
        rows = measure(chosen, device, minutes, save)
    return rows, write_report(folder)


def _about(device: Any, size: str, minutes: float) -> dict[str, Any]:
    import torch

    from tokenbridge.store.provenance import environment

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else environment()["cpu"]
    cuda = torch.version.cuda if device.type == "cuda" else None
    return {"device": name, "gpu": device.type == "cuda", "size": size, "minutes": minutes,
            "torch": torch.__version__, "cuda": cuda}  # fmt: skip


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def lines(rows: Sequence[Row]) -> list[str]:
    """Rows as text: value, unit and goal, or why there is no value."""
    return [
        f"{row.part}: {row.name}: {cell(row._asdict())}" + (f" (goal {row.goal})" if row.goal else "") for row in rows
    ]


def cell(row: Mapping[str, Any]) -> str:
    """A row's value with its unit, marked where it misses its goal, or the reason in brackets."""
    from tokenbridge.speed.card import Row

    if row["value"] is None:
        return f"– ({row['why']})"
    missed = ": missed" if Row(**row).missed else ""
    return f"{row['value']:.4g} {row['unit']}".strip() + missed


def write_report(folder: Path) -> Path:
    """Write report.md of all devices whose files are in the folder; a GPU's column stays empty where there is none.

    Raises:
        UserError: a file that is none of ours.
    """
    cards = [_read(path) for path in sorted(folder.glob("*.json"))]
    about = (
        "Written by `tokenbridge speed --minutes`. Ratios are of one run, in which both ways take turns; the released"
        " way is our own model run as the released code runs it, and gives equal tokens."
    )
    text = [TITLE, "", about]
    for size in dict.fromkeys(card["size"] for card in cards):
        of = [card for card in cards if card["size"] == size]
        text += ["", f"## Size {size}", "", *_table(of)]
    if not any(card["gpu"] for card in cards):
        text += ["", f"GPU: {NO_GPU}. On a card: `tokenbridge speed --device cuda --minutes 8`."]
    path = folder / "report.md"
    write_atomic(path, ("\n".join(text) + "\n").encode())
    return path


def _table(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = [f"{card['device']}, torch {card['torch']}, {card['threads']} threads" for card in cards]
    columns = [{(row["part"], row["name"]): row for row in card["rows"]} for card in cards]
    table = [f"| part | measured | goal | {' | '.join(heads)} |", f"| --- | --- | --- |{' --- |' * len(cards)}"]
    for key in dict.fromkeys(key for column in columns for key in column):
        rows = [column.get(key) for column in columns]
        goal = next((row["goal"] for row in rows if row and row["goal"]), "")
        cells = [cell(row) if row else "–" for row in rows]
        table.append(f"| {key[0]} | {key[1]} | {goal} | {' | '.join(cells)} |".replace("\n", " "))
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        assert content["rows"] is not None
        return content
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path} must be a file of tokenbridge speed; move it away") from None
