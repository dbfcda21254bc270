"""The speed of one device, part by part, each within its share of the time and saved as it is measured.

PARTS is the one list. A part is a function from (size, device, clock) to rows; the goals of the project stand beside
their ratios. The opponent is our own model run as the released code runs it (tokenbridge.speed.released), under the
autocast that it runs under, and its outputs are compared with ours before anything is timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import torch

from tokenbridge.config import on_one_line, short_of_memory
from tokenbridge.speed.card import heads, images, iteration, storage, training
from tokenbridge.speed.card.rows import Clock, Row, Size

Part = Callable[[Size, torch.device, Clock], Iterator[Row]]
PARTS: tuple[tuple[str, Part, float], ...] = (
    ("head", heads.rows, 0.1),
    ("iteration", iteration.rows, 0.15),
    ("images", images.rows, 0.45),
    ("training", training.rows, 0.2),
    ("storage", storage.rows, 0.1),
)
"""name, function and share of the time"""


def measure(size: Size, device: torch.device, minutes: float, save: Callable[[list[Row]], None]) -> list[Row]:
    """The rows of all parts; time that a part leaves is the next ones'.

    A part that fails leaves a row with the reason, on stderr as well, and the others go on.

    Args:
        size: what is measured.
        device: where.
        minutes: for all parts together; what runs when a part's time is over is finished.
        save: called with all rows so far after each of them.
    """
    rows: list[Row] = []
    end, shares = time.monotonic() + 60 * minutes, sum(share for _, _, share in PARTS)
    for name, part, share in PARTS:
        now = time.monotonic()
        clock = Clock(now + (end - now) * share / shares)
        shares -= share
        try:
            for row in part(size, device, clock):
                rows.append(row._replace(part=name))
                save(rows)
        except Exception as error:
            reason = short_of_memory(error) or f"{type(error).__name__}: {error}"
            rows.append(
                Row(f"the rest of this part of {size.name}", why=f"failed: {on_one_line(reason)[:300]}", part=name)
            )
            print(f"speed: {name} {rows[-1].why}", file=sys.stderr)
            save(rows)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


__all__ = ["PARTS", "Clock", "Row", "Size", "measure"]
