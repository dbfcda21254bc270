"""The formula of the backbone's operations against counting them on the backbone itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import generators as small
from tokenbridge.model.backbone import Backbone
from tokenbridge.model.costs import backbone_flops
from tokenbridge.overrides import override

META = torch.device("meta")


def counted(config, unmasked, training, wanted=None):
    with META:
        backbone = Backbone(config.backbone, config.positions, config.autoencoder.channels, config.data.classes)
        x, index = torch.zeros(1, config.positions, small.CHANNELS), torch.zeros(1, unmasked, dtype=torch.int64)
        labels = torch.zeros(1, dtype=torch.int64)
        asked = None if wanted is None else torch.zeros(1, wanted, dtype=torch.int64)
    backbone.gradient_checkpointing = config.train.gradient_checkpointing
    with FlopCounterMode(display=False) as counter:
        z = backbone.train(training).at(x, index, labels, asked)
        if training:
            z.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("depths", [(1, 2), (3, 1)])
@pytest.mark.parametrize("dropout", [0, 0.1])
@pytest.mark.parametrize(("training", "checkpointing"), [(False, False), (True, False), (True, True)])
def test_the_backbones_formula_is_what_is_counted(depths, dropout, training, checkpointing):
    config = override(
        small.config(),
        {
            "backbone.encoder_depth": depths[0],
            "backbone.decoder_depth": depths[1],
            "backbone.dropout": dropout,
            "train.gradient_checkpointing": checkpointing,
        },
    )
    for unmasked in (0, 1, 4, small.POSITIONS):
        assert backbone_flops(config, unmasked, training) == counted(config, unmasked, training)


@pytest.mark.parametrize("wanted", [1, 3, 4, 5, small.POSITIONS])
def test_the_formula_counts_what_wanted_positions_take(wanted):
    config = small.config()
    for unmasked in (0, 4):
        assert backbone_flops(config, unmasked, False, wanted) == counted(config, unmasked, False, wanted)
