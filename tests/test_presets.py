"""The paper's models have the published sizes; counted on the meta device, so no memory is taken."""

import pytest
import torch

from experiments.presets import PRESETS
from tokenbridge.generator import Generator
from tokenbridge.quantizers import ScalarQuantizer

COUNTED = {"B": 218_024_704, "L": 486_889_472, "H": 910_040_576}  # from the released classes, 64 levels
HEADS = {"L": 80.8e6, "H": 118.8e6}


@pytest.mark.parametrize("size", COUNTED)
def test_parameter_counts(size):
    config = PRESETS[f"imagenet256-{size}"]
    quantizer = ScalarQuantizer(torch.linspace(-1, 1, 64)[None], torch.zeros(2, 16))
    with torch.device("meta"):
        model = Generator(config, quantizer, tuple(range(16)))
    assert sum(p.numel() for p in model.parameters()) == COUNTED[size]
    if size in HEADS:
        assert sum(p.numel() for p in model.head.parameters()) == pytest.approx(HEADS[size], rel=0.001)
