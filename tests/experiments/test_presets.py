"""The models of the paper and of MAR have the published sizes; counted on the meta device, so no memory is taken."""

import pytest
import torch

from experiments.paper import TABLES
from experiments.presets import PRESETS
from experiments.trained import nearest
from tokenbridge.model.generator import Generator
from tokenbridge.overrides import differing, override
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
HEADS = {"L": 80.8e6, "H": 118.8e6}


@pytest.mark.parametrize("size", COUNTED)
def test_parameter_counts(size):
    config, extremes = PRESETS[f"imagenet256-{size}"], torch.zeros(2, 16)
    levels = ScalarQuantizer(torch.linspace(-1, 1, 64)[None], extremes)
    with torch.device("meta"):
        model = Generator(config, levels if config.token_levels else IdentityQuantizer(extremes), tuple(range(16)))
    assert sum(p.numel() for p in model.parameters()) == COUNTED[size]
    if size in HEADS:
        assert sum(p.numel() for p in model.head.parameters()) == pytest.approx(HEADS[size], rel=0.001)


@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_both_recipes_of_the_paper(size):
    """The columns of table 4: `paper` is the preset, `released` is what -released changes."""
    paper, released = PRESETS[f"imagenet256-{size}"], PRESETS[f"imagenet256-{size}-released"]
    settings = {key: value for cell in TABLES["4"].rows for key, value in cell.overrides.items()}
    of_size = {"L": {}, "B": {}, "H": {"sample.temperature": 0.91, "sample.guidance": 3.45}}[size]
    assert differing(paper, override(paper, settings | of_size)) == {}
    epochs = {"H": {}}.get(size, {"train.epochs": 400})
    assert differing(released, paper) == epochs | {
        "train.learning_rate": 5e-5 * released.train.batch / 256,
        "train.warmup_epochs": 100,
        "train.clip": 3.0,
    } | ({"sample.temperature": 0.96} if size == "L" else {})
    assert released.train.betas == (0.9, 0.95)
    assert nearest(released) == f"imagenet256-{size}-released"
