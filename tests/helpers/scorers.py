"""Weights of the published scorers' formats, with random values, and a few images."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_clip import CLIPVisual
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from tokenbridge.metrics.scorers import DINOV2_CODE, SCORERS

HUB = """
import torch

def dinov2_vitl14(*, pretrained=True):
    assert not pretrained, "it would read a pickle"
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 1024))
"""


class Unloaded(FeatureExtractorInceptionV3):
    def load_state_dict(self, *_, **__):  # a state of its own, to write one
        return None


class ScriptedLayers(nn.Module):
    """What clean-fid uses of inception-2015-12-05.pt."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, SCORERS["clean"].width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def write_inception(folder: Path) -> None:
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Unloaded("test", ["2048"], feature_extractor_weights_path=empty)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # torch's own values make all images alike
    torch.save(network.state_dict(), folder / SCORERS["inception"].file)


def write_clean(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        torch.jit.script(ScriptedLayers()).save(str(folder / SCORERS["clean"].file))


def write_dinov2(folder: Path) -> None:
    (folder / DINOV2_CODE).mkdir()
    (folder / DINOV2_CODE / "hubconf.py").write_text(HUB)
    (folder / "checkpoints").mkdir()
    state = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(12, SCORERS["dinov2"].width)).state_dict()
    torch.save(state, folder / "checkpoints" / SCORERS["dinov2"].file)


class ScriptedClip(nn.Module):
    """What of OpenAI's ViT-L-14-336px.pt is read: the image tower (narrow, for 28 pixels) beside the text's parts."""

    def __init__(self):
        super().__init__()
        self.visual = CLIPVisual(SCORERS["clip"].width, 28, 1, 64, 14).visual
        self.text_projection = nn.Parameter(torch.zeros(4, SCORERS["clip"].width))
        self.ln_final = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_clip(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        model = torch.jit.trace_module(ScriptedClip(), {"forward": torch.zeros(1)})
        model.save(str(folder / SCORERS["clip"].file))


def pictures(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    """Smooth random images, uint8 (N, 3, size, size)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    large = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in coarse]
    return np.stack([np.asarray(image) for image in large]).transpose(0, 3, 1, 2)


def write_pictures(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return folder
