"""Each table of the paper (arXiv 2503.16430): its cells as overrides onto a base config, and the published numbers.

Published numbers were measured on ImageNet 256×256; nothing here is ever copied into a measured column. A cell without
overrides cannot run with today's configuration and says why. A cell without a published number says why as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenbridge.config import UserError

PUBLISHED_ON = "ImageNet 256×256"


@dataclass(frozen=True)
class Column:
    """One column of numbers; key is `<stage kind>/<metric>` where measured, a short name where published."""

    key: str
    title: str
    better: Literal["lower", "higher", ""] = ""
    decimals: int = 2
    unit: str = ""
    scale: float = 1.0
    """factor from the stored number to the printed one; the title or the unit says so"""
    meaning: str = ""
    """one sentence for a reader who is new to the field"""


@dataclass(frozen=True)
class Cell:
    """One row: what it changes in the base config (dotted key -> value), and what the paper reports for it."""

    label: str
    overrides: Mapping[str, Any] | None
    published: Mapping[str, float | str] = field(default_factory=dict)
    reason: str = ""
    """why overrides is None, or why there is no published number"""


@dataclass(frozen=True)
class Table:
    id: str
    title: str
    kind: Literal["reconstruction", "generation", "settings", "speed"]
    varies: tuple[str, ...]
    """config keys that differ between the rows on purpose"""
    cells: tuple[Cell, ...]
    published: tuple[Column, ...]
    measured: tuple[Column, ...] = ()
    note: str = ""

    def cell(self, label: str) -> Cell:
        for cell in self.cells:
            if cell.label == label:
                return cell
        known = ", ".join(cell.label for cell in self.cells)
        raise UserError(f"{label!r} is no row of table {self.id}; its rows are {known}")


# fmt: off
MSE = Column(
    "quantizer/mse", "MSE ×10³", "lower", 2, scale=1e3,
    meaning="mean squared error that quantization adds to a latent value (latents have standard deviation 1)")
ENTROPY = Column(
    "quantizer/entropy_bits", "index entropy", "", 2, "bits/channel",
    meaning="information in one token index, at most log₂ of the number of levels")
PSNR = Column(
    "reconstruct/psnr", "PSNR", "higher", 2, "dB",
    meaning="peak signal-to-noise ratio of reconstructed held-out images against the originals")
SSIM = Column(
    "reconstruct/ssim", "SSIM", "higher", 4,
    meaning="structural similarity of reconstructed held-out images to the originals, at most 1")
RECONSTRUCTION_FD = Column(
    "reconstruct/fd_digits", "fd_digits", "lower", 3,
    meaning="Fréchet distance between features of real and reconstructed images, by the shipped digit classifier;"
    " it is not FID, which needs Inception features")
ORIGINALS_FD = Column(
    "reconstruct/fd_digits_held_out", "fd to originals", "lower", 4,
    meaning="fd_digits of the reconstructions against the very images that they reconstruct, where fd_digits takes the"
    " training images as its reference and cannot fall far below what other real images read")
FD = Column(
    "score/fd_digits", "fd_digits", "lower", 2,
    meaning="Fréchet distance between features of real and generated images, by the shipped digit classifier;"
    " it is not FID, which needs Inception features")
BITS = Column(
    "likelihood/bits_per_dim", "bits/dim", "lower", 3,
    meaning="bits the model needs for one latent value of a held-out image, as a density (it can be negative)")
IS = Column(
    "score/is_digits", "is_digits", "higher", 2,
    meaning="Inception-style score with the shipped digit classifier, at most the number of classes")
AGREEMENT = Column(
    "score/agreement", "agreement", "higher", 1, "%", 100,
    meaning="share of generated images that the classifier reads as the class asked for")
PRECISION = Column(
    "score/precision_digits", "precision", "higher", 3,
    meaning="share of generated images that lie among the real ones in feature space")
RECALL = Column(
    "score/recall_digits", "recall", "higher", 3,
    meaning="share of real images that lie among the generated ones in feature space")

RECONSTRUCTION = (MSE, ENTROPY, PSNR, SSIM, RECONSTRUCTION_FD, ORIGINALS_FD)
GENERATION = (FD, BITS, IS, AGREEMENT, PRECISION, RECALL)

_RFID_IS = (Column("rfid", "rFID", "lower"), Column("is", "IS", "higher", 1))
_GFID_IS = (Column("gfid", "gFID", "lower"), Column("is", "IS", "higher", 1))
_FID_IS_PR = (
    Column("params", "parameters", "", 0, "M"), Column("fid", "FID", "lower"), Column("is", "IS", "higher", 1),
    Column("precision", "precision", "higher"), Column("recall", "recall", "higher"),
)
_OTHER_SYSTEM = "another system: published numbers only"
_NO_DIFFUSION = "needs the diffusion head, which is not built yet"
_NO_GROUPS = "needs the grouped head, which is not built yet"


def _gaussian(levels: int, **width: float) -> dict[str, Any]:
    values = {"quantizer.kind": "gaussian", "quantizer.levels": levels}
    return values | {f"quantizer.{key}": value for key, value in width.items()}


_CONTINUOUS = Cell("continuous", {"quantizer.kind": "identity"}, {"rfid": 1.11, "is": 306.1})

TABLE_1A = Table(
    "1a", "Levels per channel", "reconstruction", ("quantizer.kind", "quantizer.levels"),
    (
        _CONTINUOUS,
        Cell("B=4", _gaussian(4, range=5.0), reason="not in the paper"),
        Cell("B=8", _gaussian(8, range=5.0), {"rfid": 3.69, "is": 250.3}),
        Cell("B=16", _gaussian(16, range=5.0), {"rfid": 1.33, "is": 296.8}),
        Cell("B=32", _gaussian(32, range=5.0), {"rfid": 1.12, "is": 303.8}),
        Cell("B=64", _gaussian(64, range=5.0), {"rfid": 1.11, "is": 305.4}),
    ),
    _RFID_IS, RECONSTRUCTION,
    "Range ±5. Continuous is the autoencoder alone, without quantization (VAE in the paper).",
)
TABLE_1B = Table(
    "1b", "Range of the quantizer", "reconstruction", ("quantizer.kind", "quantizer.range"),
    (
        _CONTINUOUS,
        Cell("±2", _gaussian(64, range=2.0), {"rfid": 2.26, "is": 267.9}),
        Cell("±3", _gaussian(64, range=3.0), {"rfid": 1.22, "is": 299.7}),
        Cell("±4", _gaussian(64, range=4.0), {"rfid": 1.13, "is": 305.3}),
        Cell("±5", _gaussian(64, range=5.0), {"rfid": 1.11, "is": 305.4}),
    ),
    _RFID_IS, RECONSTRUCTION,
    "64 levels. Continuous is the autoencoder alone, without quantization (VAE in the paper).",
)
TABLE_2A = Table(
    "2a", "Prediction of the channels of a token", "generation", ("head.kind",),
    (
        Cell("parallel", {"head.kind": "parallel"}, {"gfid": 15.7, "is": 158.5}),
        Cell("autoregressive", {"head.kind": "autoregressive"}, {"gfid": 1.94, "is": 306.1}),
    ),
    _GFID_IS, GENERATION,
    "Parallel: all channels at once, independent of each other. Autoregressive: one after another, each given those"
    " before it.",
)
TABLE_2B = Table(
    "2b", "Channel order", "generation", ("head.order",),
    (
        Cell("as stored", {"head.order": "stored"}, {"gfid": 1.94, "is": 306.1}),
        Cell("frequency", {"head.order": "frequency"}, {"gfid": 1.89, "is": 307.3}),
    ),
    _GFID_IS, GENERATION,
)
TABLE_2C = Table(
    "2c", "Levels per channel, in generation", "generation", ("quantizer.levels",),
    (
        Cell("B=16", _gaussian(16), {"gfid": 2.03, "is": 295.0}),
        Cell("B=32", _gaussian(32), {"gfid": 1.98, "is": 298.4}),
        Cell("B=64", _gaussian(64), {"gfid": 1.94, "is": 306.1}),
    ),
    _GFID_IS, GENERATION,
)
TABLE_2D = Table(
    "2d", "Channels predicted together", "generation", (),
    (
        Cell("1 channel", _gaussian(16), {"classes": 16, "params": 60, "gfid": 2.28, "is": 289.1}),
        Cell("2 channels", None, {"classes": 256, "params": 63, "gfid": 2.45, "is": 291.2}, _NO_GROUPS),
        Cell("4 channels", None, {"classes": 65_536, "params": 530, "gfid": 3.24, "is": 282.9}, _NO_GROUPS),
    ),
    (Column("classes", "classes", "", 0), Column("params", "head parameters", "", 0, "M"), *_GFID_IS), GENERATION,
    "16 levels, 172M backbone.",
)


def _head(width: int, depth: int, **published: float) -> Cell:
    return Cell(f"{width}×{depth}", {"head.width": width, "head.depth": depth}, published)


TABLE_2E = Table(
    "2e", "Size of the head (width × blocks)", "generation", ("head.width", "head.depth"),
    (
        _head(256, 3, params=3, gfid=2.88, **{"is": 277.3}),
        _head(512, 3, params=10, counted=16.3, gfid=2.72, **{"is": 284.8}),
        _head(512, 4, params=13, counted=21.0, gfid=2.65, **{"is": 295.5}),
        _head(1024, 4, params=65, counted=80.8, gfid=2.03, **{"is": 305.0}),
        _head(1024, 6, params=94, counted=118.6, gfid=1.94, **{"is": 306.1}),
    ),
    (
        Column("params", "head parameters, paper", "", 0, "M"),
        Column("counted", "head parameters, counted in the released code", "", 1, "M"),
        *_GFID_IS,
    ),
    GENERATION, "The paper's parameter column is not that of the released head; both are given.",
)


def _system(label: str, *numbers: float | None, reason: str = _OTHER_SYSTEM, overrides: Any = None) -> Cell:
    named = zip(_FID_IS_PR, numbers, strict=False)
    return Cell(label, overrides, {column.key: value for column, value in named if value is not None}, reason)


def _size(width: int, depth: int, head_depth: int, temperature: float, guidance: float) -> dict[str, Any]:
    return {
        "backbone.width": width, "backbone.encoder_depth": depth, "backbone.decoder_depth": depth, "backbone.heads": 16,
        "head.width": 1024, "head.depth": head_depth, "head.heads": 8,
        "sample.temperature": temperature, "sample.guidance": guidance,
    }


TABLE_3 = Table(
    "3", "Systems", "generation", tuple(_size(1024, 16, 4, 0.97, 3.1)),
    (
        _system("MaskGIT", 177, 6.18, 182.1),
        _system("RQTran", 3800, 7.55, 134.0),
        _system("ViT-VQGAN", 1700, 4.17, 175.1),
        _system("TiTok-128", 287, 1.97, 281.8),
        _system("MAGVIT-v2", 307, 1.78, 319.4),
        _system("Open-MAGVIT2-L", 804, 2.51, 271.7, 0.84, 0.54),
        _system("LlamaGen", 3100, 2.18, 263.3, 0.81, 0.58),
        _system("VAR", 2000, 1.73, 350.2, 0.82, 0.60),
        _system("LDM-4", 400, 3.60, 247.7, 0.87, 0.48),
        _system("U-ViT-H/2-G", 501, 2.29, 263.9, 0.82, 0.57),
        _system("DiT-XL/2", 675, 2.27, 278.2, 0.83, 0.57),
        _system("MDTv2-XL/2", 676, 1.58, 314.7, 0.79, 0.65),
        _system("GIVT", 304, 3.35, None, 0.84, 0.53),
        _system("FlowAR-H", 1900, 1.65, 296.5, 0.83, 0.60),
        _system("MAR-L", 479, 1.78, 296.0, 0.81, 0.60, reason=_NO_DIFFUSION),
        _system("MAR-H", 943, 1.55, 303.7, 0.81, 0.62, reason=_NO_DIFFUSION),
        _system("TokenBridge-L", 486, 1.76, 294.8, 0.80, 0.63, reason="", overrides=_size(1024, 16, 4, 0.97, 3.1)),
        _system("TokenBridge-H", 910, 1.55, 313.3, 0.80, 0.65, reason="", overrides=_size(1280, 20, 6, 0.91, 3.45)),
    ),
    _FID_IS_PR, GENERATION,
    "MaskGIT to VAR: trained discrete tokens. LDM-4 to MAR-H: continuous. TokenBridge: post-training quantized.",
)


def _setting(label: str, paper: str, released: str, overrides: dict[str, Any]) -> Cell:
    return Cell(label, overrides, {"paper": paper, "released": released})


_DROPOUTS = ("backbone.dropout", "backbone.attention_dropout", "head.dropout", "head.attention_dropout")

TABLE_4 = Table(
    "4", "Training and sampling settings", "settings", (),
    (
        _setting("optimizer", "AdamW (0.9, 0.95), weight decay 0.02", "same",
                 {"train.betas": (0.9, 0.95), "train.weight_decay": 0.02}),
        _setting("learning rate", "8e-4 at batch 2048", "5e-5 · batch/256 = 4e-4 at batch 2048",
                 {"train.learning_rate": 8e-4, "train.batch": 2048}),
        _setting("schedule", "cosine to 0, warm-up 200 of 800 epochs", "cosine, warm-up 100 of 400 epochs",
                 {"train.epochs": 800, "train.warmup_epochs": 200}),
        _setting("dropout / attention dropout / label dropout", "0.1 / 0.1 / 0.1", "same",
                 dict.fromkeys((*_DROPOUTS, "train.label_drop"), 0.1)),
        _setting("precision", "bfloat16", "automatic mixed precision", {"train.precision": "bfloat16"}),
        _setting("EMA", "0.9999", "same", {"train.ema": 0.9999}),
        _setting("gradient clip", "1.0", "3.0", {"train.clip": 1.0}),
        _setting("temperature", "0.97 (L), 0.91 (H)", "0.96 (L), 0.91 (H)", {"sample.temperature": 0.97}),
        _setting("guidance, linear schedule", "3.1 (L), 3.45 (H)", "same",
                 {"sample.guidance": 3.1, "sample.guidance_schedule": "linear"}),
        _setting("iterations", "not given", "256", {"sample.iterations": 256}),
    ),
    (Column("paper", "paper"), Column("released", "released command")),
    note="Overrides hold the paper's values: those of L where L and H differ, and 256 iterations.",
)
TABLE_5 = Table(
    "5", "Time for one image token", "speed", ("head.kind",),
    (
        Cell("diffusion", None, {"ms": 311.25, "spread": 1.85}, _NO_DIFFUSION),
        Cell("autoregressive", {"head.kind": "autoregressive"}, {"ms": 52.42, "spread": 0.57}),
    ),
    (Column("ms", "time", "lower", 2, "ms"), Column("spread", "±", "", 2, "ms")),
    note="Batch 1, A100, mean of 100 runs; diffusion is MAR's head at 100 steps. Ratio 5.94.",
)

_ALL = (TABLE_1A, TABLE_1B, TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E, TABLE_3, TABLE_4, TABLE_5)
TABLES: Mapping[str, Table] = {table.id: table for table in _ALL}
# fmt: on


def table(id: str) -> Table:
    """The table of this number, or UserError naming those that exist."""
    if id not in TABLES:
        raise UserError(f"table {id!r} is none of the paper's; choose one of {', '.join(TABLES)}")
    return TABLES[id]
