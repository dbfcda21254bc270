"""The class is diffusers' own, and comes without the rest of diffusers."""

import subprocess
import sys

import pytest

LIGHT = """
import sys
from tokenbridge.autoencoders.sources import Digits

body = Digits().load().model
assert not sys.modules.keys() & {"torch._dynamo", "scipy.stats", "torchvision", "diffusers.models.transformers"}

import scipy.stats
import torch._dynamo
from diffusers import AutoencoderKL, UNet2DModel
from diffusers.models.transformers import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import Transformer2DModel as used

assert type(body) is AutoencoderKL
assert used is Transformer2DModel
assert scipy.stats.norm.ppf(0.5) == 0
torch.compiler.disable(torch.compile(body.decode, backend="eager"))
"""

OTHER_LAYOUT = """
import sys
from tokenbridge.autoencoders import autoencoder_kl

autoencoder_kl.PACKAGES += ("diffusers.models.moved",)
found = autoencoder_kl.autoencoder_kl()
from diffusers import AutoencoderKL

assert found is AutoencoderKL
assert "torch._dynamo" in sys.modules, "imported whole"
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_the_class_does_not_need_is_not_imported_and_comes_when_asked_for():
    run(LIGHT)


@pytest.mark.slow
def test_where_diffusers_is_laid_out_otherwise_it_is_imported_whole():
    run(OTHER_LAYOUT)
