"""The published networks, which libraries run: Inception of FID, clean-fid's, DINOv2, CLIP. As those of networks.py."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import build_model
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA, FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from tokenbridge.config import UserError
from tokenbridge.metrics.programs import Program
from tokenbridge.weights import fill, read_checkpoint

SPATIAL_CHANNELS = 7
DINOV2 = "dinov2-vit-l-14"
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""of CLIP's training images, values in [0, 1] (github.com/openai/CLIP, clip.py)"""


class Inception(nn.Module):
    """torch-fidelity's Inception of TensorFlow's weights: pool features, logits without bias, spatial features.

    The spatial ones are those of ADM's evaluator (github.com/openai/guided-diffusion): the first seven channels of
    TensorFlow's mixed_6/conv, of 17 × 17 places, place by place.
    """

    gives = ("features", "logits", "spatial")

    def __init__(self, path: Path, program: Program | None = None):
        super().__init__()
        # torch-fidelity would run what a pickle says: it gets what was read as plain tensors
        state = read_checkpoint(path, "get it again")
        plain = io.BytesIO()
        torch.save(state, plain)
        plain.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=plain
            )
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} must hold the weights of torch-fidelity's Inception ({reason}); get it") from error
        self._seen: Tensor | None = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)  # TensorFlow's mixed_6/conv

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, logits = self.network(_coloured(images))
        assert self._seen is not None
        spatial, self._seen = self._seen.permute(0, 2, 3, 1).flatten(1), None
        return features, logits, spatial

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen = output[:, :SPATIAL_CHANNELS].clone()


class Clean(nn.Module):
    """clean-fid's resize on the processor, and the TorchScript Inception that it wraps (arXiv 2104.11222)."""

    gives = ("features",)

    def __init__(self, path: Path, program: Program):
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        super().__init__()
        try:
            with program.copied() as folder, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
                self.network = InceptionV3W(str(folder), download=False, resize_inside=False)
        except (RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} must be clean-fid's Inception as TorchScript ({reason}); get it again") from error
        self.resize = build_resizer("clean")

    def forward(self, images: Tensor) -> tuple[Tensor]:
        pixels = _coloured(images).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([self.resize(image) for image in pixels]))
        return (self.network(resized.permute(0, 3, 1, 2).contiguous().to(images.device)).float(),)


class DinoV2(FeatureExtractorDinoV2):
    """torch-fidelity's DINOv2 (ViT-L/14, arXiv 2306.04675), from a torch.hub folder and not from the internet.

    The repository of the network is run; its weights are read as plain tensors, which it would not do itself.
    """

    gives = ("features",)

    def __init__(self, path: Path, program: Program):
        FeatureExtractorBase.__init__(self, DINOV2, ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        os.environ["XFORMERS_DISABLED"] = "1"
        with program.copied() as folder, redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="xFormers is")
            network = torch.hub.load(str(folder), MODEL_METADATA[DINOV2], source="local", pretrained=False)
        self.model = fill(cast(nn.Module, network), read_checkpoint(path, "get it again"), path, "get it again")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return super().forward(_coloured(x))


class Clip(nn.Module):
    """CLIP's image tower (arXiv 2103.00020) as CMMD uses it (arXiv 2401.09603): features are its embeddings (B, 768).

    The file is a TorchScript, of which the weights alone are taken; torch-fidelity has the network.
    """

    gives = ("features",)
    mean: Tensor
    deviation: Tensor

    def __init__(self, path: Path, program: Program):
        super().__init__()
        try:
            with program.copied() as folder, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
                scripted = torch.jit.load(folder / path.name, map_location="cpu")
            self.network = build_model(scripted.state_dict(), torch.float32).visual
        except (RuntimeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} must be CLIP's ViT-L/14 as TorchScript ({reason}); get it again") from error
        self.register_buffer("mean", 255 * torch.tensor(CLIP_MEAN)[:, None, None])
        self.register_buffer("deviation", 255 * torch.tensor(CLIP_DEVIATION)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        size = 2 * (self.network.input_resolution,)
        resized = nn.functional.interpolate(_coloured(images).float(), size, mode="bicubic", antialias=True)
        return (self.network((resized - self.mean) / self.deviation).float(),)


def _coloured(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


NETWORKS: dict[str, Callable[[Path, Any], nn.Module]] = {
    "inception": Inception,
    "clean": Clean,
    "dinov2": DinoV2,
    "clip": Clip,
}
