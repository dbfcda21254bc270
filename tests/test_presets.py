"""The models of the paper and of MAR have the published sizes; counted on the meta device, so no memory is taken."""

import pytest
import torch

from experiments.presets import PRESETS
from tokenbridge.generator import Generator
from tokenbridge.quantizers import IdentityQuantizer, ScalarQuantizer

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
