"""The networks of published scores, as the libraries run them, with weights from files.

Each takes uint8 (B, 1 or 3, H, W), grey as red, green and blue alike, and gives float32 arrays, which `gives` names:
features (B, F), logits (B, K), spatial features (B, S).
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA, FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from tokenbridge.config import UserError
from tokenbridge.metrics.scorers import DINOV2_CODE
from tokenbridge.weights import read_checkpoint

SPATIAL_CHANNELS = 7
DINOV2 = "dinov2-vit-l-14"


class Inception(nn.Module):
    """torch-fidelity's Inception of TensorFlow's weights: pool features, logits without bias, spatial features.

    The spatial ones are those of ADM's evaluator (github.com/openai/guided-diffusion): the first seven channels of
    TensorFlow's mixed_6/conv, of 17 × 17 places, place by place.
    """

    gives = ("features", "logits", "spatial")

    def __init__(self, path: Path):
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
    """clean-fid's way: its resize on the processor, and the TorchScript Inception that it wraps."""

    gives = ("features",)

    def __init__(self, path: Path):
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        super().__init__()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
                self.network = InceptionV3W(str(path.parent), download=False, resize_inside=False)
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

    The folder's code is run: it is the repository of the network.
    """

    gives = ("features",)

    def __init__(self, path: Path):
        FeatureExtractorBase.__init__(self, DINOV2, ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        folder = path.parent.parent
        os.environ["XFORMERS_DISABLED"] = "1"
        before = torch.hub.get_dir()
        try:
            torch.hub.set_dir(str(folder))  # where the repository looks for its weights
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="xFormers is")
                code, model = folder / DINOV2_CODE, MODEL_METADATA[DINOV2]
                self.model = torch.hub.load(str(code), model, source="local")
        finally:
            torch.hub.set_dir(before)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return super().forward(_coloured(x))


def _coloured(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


NETWORKS: dict[str, Callable[[Path], nn.Module]] = {"inception": Inception, "clean": Clean, "dinov2": DinoV2}
