"""The models of the paper and of MAR have the published sizes; counted on the meta device, so no memory is taken."""

import pytest
import torch

from experiments.paper import TABLES
from experiments.presets import PRESETS
from experiments.trained import nearest
from tokenbridge.model.generator import Generator
from tokenbridge.model.trainer import decays
from tokenbridge.overrides import differing, override, settings
from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer

# from the released classes; TokenBridge with 64 levels
COUNTED = {
    "B": 218_024_704,
    "L": 486_889_472,
    "H": 910_040_576,
    "mar-B": 207_924_768,
    "mar-L": 478_326_304,
    "mar-H": 942_403_104,
}
FREQUENCY = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)  # released constant for KL-16
HEADS = {"L": 80.8e6, "H": 118.8e6}


@pytest.mark.parametrize("size", COUNTED)
def test_parameter_counts(size):
    config, extremes = PRESETS[f"imagenet256-{size}"], torch.zeros(2, 16)
    levels = ScalarQuantizer(torch.linspace(-1, 1, 64)[None], extremes)
    with torch.device("meta"):
        model = Generator(config, levels if config.token_levels else IdentityQuantizer(extremes), tuple(range(16)))
    assert sum(p.numel() for p in model.parameters()) == COUNTED[size]
    require_released_decay(model, size)
    if size in HEADS:
        assert sum(p.numel() for p in model.head.parameters()) == pytest.approx(HEADS[size], rel=0.001)


@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_both_recipes_of_the_paper(size):
    """The columns of table 4: `paper` is the preset, `released` is what -released changes."""
    paper, released = PRESETS[f"imagenet256-{size}"], PRESETS[f"imagenet256-{size}-released"]
    columns = {key: value for cell in TABLES["4"].rows for key, value in cell.overrides.items()}
    of_size = {"L": {}, "B": {}, "H": {"sample.temperature": 0.91, "sample.guidance": 3.45}}[size]
    assert differing(paper, override(paper, columns | of_size)) == {}
    epochs = {"H": {}}.get(size, {"train.epochs": 400})
    assert differing(released, paper) == epochs | {
        "head.order": FREQUENCY,
        "train.learning_rate": 5e-5 * released.train.batch / 256,
        "train.warmup_epochs": 100,
        "train.clip": 3.0,
        "data.validation_fraction": 0,
    } | ({"sample.temperature": 0.96} if size == "L" else {})
    assert released.train.betas == (0.9, 0.95)
    assert nearest(released) == f"imagenet256-{size}-released"


def require_released_decay(model, size):
    """add_weight_decay of MAR: none on vectors, on biases, and on `diffloss`; by the shapes of the released code."""
    decayed = decays(model, PRESETS[f"imagenet256-{size}"].train.decay)
    assert {"backbone.mask_token", "backbone.unconditional", "backbone.encoder_position"} <= decayed
    assert not [name for name in decayed if name.endswith("bias")]
    assert any(name.startswith("head.") for name in decayed) == (not size.startswith("mar-"))
    left = {name for name, p in model.named_parameters() if name not in decayed and p.dim() > 1}
    assert {name for name in left if not name.startswith("head.")} == set()
    plain = decays(model, "matrices")
    assert plain == {name for name, p in model.named_parameters() if p.dim() > 1}


RECIPE = {
    # table 4 of the paper and the released training command: settings that both columns share
    "latents.scale": 0.2325,
    "latents.flip": True,
    "quantizer.levels": 64,
    "quantizer.range": 5.0,
    "quantizer.std_range": 3.0,
    "backbone.class_tokens": 64,
    "backbone.dropout": 0.1,
    "backbone.attention_dropout": 0.1,
    "train.batch": 2048,
    "train.weight_decay": 0.02,
    "train.decay": "released",
    "train.betas": (0.9, 0.95),
    "train.ema": 0.9999,
    "train.label_drop": 0.1,
    "train.mask_ratio_min": 0.7,
    "train.mask_ratio_deviation": 0.25,
    "sample.images": 50_000,
    "sample.iterations": 256,
    "sample.guidance_schedule": "linear",
}
REMAINS = {
    "imagenet256-B": {"sample.temperature": "the paper has none for B: that of L", "sample.guidance": "as temperature"},
    "data": {"data.validation_fraction": "1 % of the training images, on which settings are chosen; -released: none"},
    "released": {"train.precision": "bfloat16, where the released command has automatic mixed precision (float16)"},
    "score": {"score.features": "digits until score.features=inception and the ADM statistics are given"},
}
"""each difference to the recipes that remains, and why"""


@pytest.mark.parametrize("name", [f"imagenet256-{size}" for size in ("B", "L", "H")])
@pytest.mark.parametrize("released", [False, True])
def test_presets_are_the_recipes_and_what_remains_is_listed(name, released):
    preset = PRESETS[name + "-released" if released else name]
    assert differing(override(preset, RECIPE), preset) == {}
    assert preset.head.order == (FREQUENCY if released else "frequency")
    sampling = {"B": (0.97, 3.1), "L": (0.96 if released else 0.97, 3.1), "H": (0.91, 3.45)}[name[-1]]
    assert (preset.sample.temperature, preset.sample.guidance) == sampling
    clip, epochs = (3.0, 800 if name[-1] == "H" else 400) if released else (1.0, 800)
    assert (preset.train.clip, preset.train.epochs) == (clip, epochs)
    assert (preset.train.learning_rate, preset.train.warmup_epochs) == ((4e-4, 100) if released else (8e-4, 200))
    # what remains: named above
    assert preset.data.validation_fraction == (0 if released else 0.01)
    assert (preset.train.precision, preset.score.features) == ("bfloat16", "digits")
    assert {key for each in REMAINS.values() for key in each} <= settings(preset).keys()
