"""Tables 1a and 1b: what quantization costs; and the same table of own images, for levels and ranges as asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.paper.form import Column, Row, Table
from tokenbridge.metrics.catalogue import ENTROPY, MSE, ORIGINALS_FD, PSNR, RECONSTRUCTION_FD, SSIM

# fmt: off
RFID_IS = (Column("rfid", "rFID", "lower"), Column("is", "IS", "higher", 1))
RECONSTRUCTION = (MSE, ENTROPY, PSNR, SSIM, RECONSTRUCTION_FD, ORIGINALS_FD)


def gaussian(levels: int, **width: float) -> dict[str, Any]:
    values = {"quantizer.kind": "gaussian", "quantizer.levels": levels}
    return values | {f"quantizer.{key}": value for key, value in width.items()}


_CONTINUOUS = Row("continuous", {"quantizer.kind": "identity"}, {"rfid": 1.11, "is": 306.1})

TABLE_1A = Table(
    "1a", "Levels per channel", "reconstruction", ("quantizer.kind", "quantizer.levels"),
    (
        _CONTINUOUS,
        Row("B=4", gaussian(4, range=5.0), reason="not in the paper"),
        Row("B=8", gaussian(8, range=5.0), {"rfid": 3.69, "is": 250.3}),
        Row("B=16", gaussian(16, range=5.0), {"rfid": 1.33, "is": 296.8}),
        Row("B=32", gaussian(32, range=5.0), {"rfid": 1.12, "is": 303.8}),
        Row("B=64", gaussian(64, range=5.0), {"rfid": 1.11, "is": 305.4}),
    ),
    RFID_IS, RECONSTRUCTION,
    "Range ±5. Continuous is the autoencoder alone, without quantization (VAE in the paper).",
)
TABLE_1B = Table(
    "1b", "Range of the quantizer", "reconstruction", ("quantizer.kind", "quantizer.range"),
    (
        _CONTINUOUS,
        Row("±2", gaussian(64, range=2.0), {"rfid": 2.26, "is": 267.9}),
        Row("±3", gaussian(64, range=3.0), {"rfid": 1.22, "is": 299.7}),
        Row("±4", gaussian(64, range=4.0), {"rfid": 1.13, "is": 305.3}),
        Row("±5", gaussian(64, range=5.0), {"rfid": 1.11, "is": 305.4}),
    ),
    RFID_IS, RECONSTRUCTION,
    "64 levels. Continuous is the autoencoder alone, without quantization (VAE in the paper).",
)
# fmt: on

RECONSTRUCT = "reconstruct"
"""id of the table that `tokenbridge reconstruct` fills"""


def reconstruct_table(labels: Sequence[str]) -> Table:
    """The table of own images.

    Args:
        labels: of its rows, of which the first is the autoencoder alone, without quantization.
    """
    rows = tuple(Row(label, {}, {}, "of own images") for label in dict.fromkeys(labels))
    varies = ("quantizer.kind", "quantizer.levels", "quantizer.range")
    note = "Continuous is the autoencoder alone, without quantization; all rows see the same images."
    return Table(RECONSTRUCT, "Reconstructions by quantizer", "reconstruction", varies, rows, (), RECONSTRUCTION, note)
