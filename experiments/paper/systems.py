"""Tables 3 to 5: systems, settings and speed."""

from __future__ import annotations

from typing import Any

from experiments.paper.form import Column, Row, Table
from experiments.paper.generation import GENERATION
from tokenbridge.config import CONTINUOUS
from tokenbridge.metrics.catalogue import RECOMPUTING_MS, STEPWISE_MS, TOKEN_MS, TOKEN_MS_256

# fmt: off
FID_IS_PR = (
    Column("params", "parameters", "", 0, "M"), Column("fid", "FID", "lower"), Column("is", "IS", "higher", 1),
    Column("precision", "precision", "higher"), Column("recall", "recall", "higher"),
)
_OTHER_SYSTEM = "another system: published numbers only"
_NEEDS = "needs ImageNet 256×256 and GPUs: not run"
def _system(label: str, *numbers: float | None, overrides: Any = None) -> Row:
    published = {column.key: value for column, value in zip(FID_IS_PR, numbers, strict=False) if value is not None}
    return Row(label, overrides, published, "" if overrides else _OTHER_SYSTEM, _NEEDS if overrides else "")


def _size(width: int, depth: int, head_depth: int, temperature: float, guidance: float) -> dict[str, Any]:
    return {
        "backbone.width": width, "backbone.encoder_depth": depth, "backbone.decoder_depth": depth, "backbone.heads": 16,
        "head.width": 1024, "head.depth": head_depth, "head.heads": 8,
        "sample.temperature": temperature, "sample.guidance": guidance,
    }


def _mar(width: int, depth: int, head_width: int, head_depth: int) -> dict[str, Any]:
    """MAR with its released head; temperature 1 and guidance 3 are those of its README's commands."""
    return {
        "quantizer.kind": "identity", "head.kind": "diffusion",
        "backbone.width": width, "backbone.encoder_depth": depth, "backbone.decoder_depth": depth, "backbone.heads": 16,
        "head.width": head_width, "head.depth": head_depth, "sample.temperature": 1.0, "sample.guidance": 3.0,
    }


TABLE_3 = Table(
    "3", "Systems", "generation", (*_size(1024, 16, 4, 0.97, 3.1), "quantizer.kind", "head.kind"),
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
        _system("MAR-L", 479, 1.78, 296.0, 0.81, 0.60, overrides=_mar(1024, 16, 1280, 8)),
        _system("MAR-H", 943, 1.55, 303.7, 0.81, 0.62, overrides=_mar(1280, 20, 1536, 12)),
        _system("TokenBridge-L", 486, 1.76, 294.8, 0.80, 0.63, overrides=_size(1024, 16, 4, 0.97, 3.1)),
        _system("TokenBridge-H", 910, 1.55, 313.3, 0.80, 0.65, overrides=_size(1280, 20, 6, 0.91, 3.45)),
    ),
    FID_IS_PR, GENERATION,
    "MaskGIT to VAR: trained discrete tokens. LDM-4 to MAR-H: continuous. TokenBridge: post-training quantized."
    " TokenBridge can be trained here by the presets imagenet256-L and -H, MAR by imagenet256-mar-L and -H, which takes"
    " the 1.28 million images of ImageNet, the KL-16 autoencoder's weights and 800 epochs of a model of 486 to 943"
    " million parameters on several GPUs; FID takes Inception weights and 50,000 images.",
    base="TokenBridge-L",
)


def _setting(label: str, paper: str, released: str, overrides: dict[str, Any]) -> Row:
    return Row(label, overrides, {"paper": paper, "released": released})


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


def _timed(label: str, kind: str, width: int, depth: int, **more: Any) -> Row:
    published = {
        "diffusion 1280×8": {"ms": 311.25, "spread": 1.85}, "autoregressive 1024×4": {"ms": 52.42, "spread": 0.57}
    }.get(label, {})
    tokens = {"quantizer.kind": "identity"} if kind in CONTINUOUS else {"quantizer.kind": "gaussian"}
    size = {"head.kind": kind, "head.width": width, "head.depth": depth}
    return Row(label, tokens | size | more, published, "" if published else "not in the paper")


TABLE_5 = Table(
    "5", "Time for one image token", "speed",
    ("quantizer.kind", "head.kind", "head.width", "head.depth", "sample.head_steps"),
    (
        _timed("diffusion 1280×8", "diffusion", 1280, 8, **{"sample.head_steps": 100}),
        _timed("diffusion 1024×3", "diffusion", 1024, 3, **{"sample.head_steps": 100}),
        _timed("flow 1280×8", "flow", 1280, 8, **{"sample.head_steps": 25}),
        _timed("mixture 1024×3", "mixture", 1024, 3),
        _timed("autoregressive 1024×4", "autoregressive", 1024, 4),
        _timed("parallel 1024×4", "parallel", 1024, 4),
    ),
    (Column("ms", "time", "lower", 2, "ms"), Column("spread", "±", "", 2, "ms")),
    (TOKEN_MS, RECOMPUTING_MS, STEPWISE_MS, TOKEN_MS_256),
    "Diffusion takes 100 steps, flow 25. Published: batch 1, A100, mean of 100 runs; the size of MAR's head there is"
    " not said, and stands here beside that of the released MAR-L. Ratio 5.94. Own numbers: random weights, float32,"
    " feature width 1024, 16 channels of 64 levels.",
    base="autoregressive 1024×4",
)
# fmt: on
