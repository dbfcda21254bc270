"""The card of a trained generator, as Hugging Face and MLflow show it: what it is, how to load it, what was measured.

Needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tokenbridge.config import RunConfig
from tokenbridge.metrics.catalogue import ARROWS, metric, telling
from tokenbridge.overrides import flatten
from tokenbridge.store.runs import Measured

MOST = 12
"""numbers of a card; config.json has all"""


def card(name: str, load: str, config: RunConfig, results: Mapping[str, Measured], picture: str = "") -> str:
    """The model card, with Hugging Face's front matter.

    Args:
        name: of the model.
        load: the words that tb.load takes.
        config: its settings.
        results: what its stages measured, by kind.
        picture: path of one of samples, beside the card.
    """
    from huggingface_hub import EvalResult, ModelCardData

    metrics = metrics_of(results)
    told = [key for key in telling(metrics) if math.isfinite(metrics[key])][:MOST]
    images = config.data.name or (Path(config.data.path).name if config.data.path else "handwritten digits")
    evaluated = [EvalResult("unconditional-image-generation", images, images, key, metrics[key]) for key in told]
    tags = ["image-generation", "autoregressive", "image-tokenizer", config.quantizer.kind, f"{config.head.kind}-head"]
    if config.data.classes > 1:
        tags.append("class-conditional")
    front = ModelCardData(
        library_name="tokenbridge",
        tags=tags,
        model_name=name,
        eval_results=evaluated or None,
        ignore_metadata_errors=False,
    )
    labels = f"range({min(10, config.data.classes)})" if config.data.classes > 1 else "[0] * 10"
    size, channels = config.data.image_size, config.data.image_channels
    lines = [
        "---", front.to_yaml(), "---", f"# {name}", "",
        f"{images[:1].upper()}{images[1:]} from {_tokens(config)}, predicted by the head `{config.head.kind}` on a"
        " masked transformer, as TokenBridge Lab trains them ([TokenBridge](https://arxiv.org/abs/2503.16430)).", "",
        *([f"![Sampled images]({picture})", ""] if picture else []),
        "```python", "import tokenbridge as tb", "",
        f"model = tb.load({load})",
        f"images = model.sample({labels}, guidance={config.sample.guidance:g})  # uint8, {channels}×{size}×{size}",
        "```", "",
        "## Measured", "", *_rows(told, metrics), "",
        "± is half of a 95 % interval over images, of this one training: another seed would read otherwise. A number"
        " compares with another of the same protocol alone; `config.json` has all numbers.", "",
        *_protocols(told, results), "## Settings", "", *_settings(config),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def metrics_of(results: Mapping[str, Measured]) -> dict[str, float]:
    """All numbers of a run, stage/name -> number."""
    return {f"{kind}/{name}": value for kind, result in results.items() for name, value in result.metrics.items()}


def _tokens(config: RunConfig) -> str:
    kind = config.quantizer.kind
    if not config.token_levels:
        return "continuous tokens"
    levels = config.quantizer.levels
    return f"tokens of kind `{kind}`" + (f" with {levels} levels per channel" if isinstance(levels, int) else "")


def _rows(told: list[str], metrics: Mapping[str, float]) -> list[str]:
    rows = ["| metric | value | | meaning |", "|---|---|---|---|"]
    for key in told:
        about = metric(key)
        value = f"{metrics[key] * about.scale:.{about.decimals}f}"
        if math.isfinite(error := metrics.get(f"{key}_se", math.nan)):
            value += f" ± {1.96 * error * about.scale:.{about.decimals}f}"
        rows.append(f"| {key} | {value} {about.unit} | {ARROWS[about.better]} | {about.meaning or about.title} |")
    return rows if told else ["Nothing yet."]


def _protocols(told: list[str], results: Mapping[str, Measured]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(key.partition("/")[0] for key in told):
        text = json.dumps(results[kind].protocol, indent=1, sort_keys=True, default=str)
        lines += [f"<details><summary>Protocol of {kind}/…</summary>", "", "```json", text, "```", "", "</details>", ""]
    return lines


def _settings(config: RunConfig) -> list[str]:
    wanted = {
        name: getattr(config, name).model_dump(mode="json")
        for name in ("backbone", "head", "quantizer", "train", "sample")
    }
    return [
        "```toml",
        *(f"{key} = {json.dumps(value)}" for key, value in flatten(wanted).items() if value is not None),
        "```",
    ]
