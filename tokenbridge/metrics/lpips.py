"""LPIPS (arXiv 1801.03924, version 0.1) by torchmetrics, which ships its linear layers; the network is from a file.

Letters: B images, ch channels (1 or 3), H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from tokenbridge.config import UserError
from tokenbridge.weights import fill, read_checkpoint

FILES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
SOURCE = "https://download.pytorch.org/models/"
REMEDY = f"name torchvision's {FILES['vgg']} or {FILES['alex']} ({SOURCE}) in score.lpips"
_FIRST = {(64, 3, 3, 3): "vgg", (64, 3, 11, 11): "alex"}
"""shape of the first convolution: what tells the networks apart"""


class Lpips:
    """Distance of pairs of images; which network's, is part of its name: lpips_vgg, lpips_alex.

    Raises UserError for a file that is not there or is of another network, and for images too small for its pooling.
    """

    def __init__(self, path: Path, size: int, device: torch.device | str = "cpu"):
        if not path.is_file():
            raise UserError(f"score.lpips={path} must be a file; {REMEDY}")
        state = read_checkpoint(path, REMEDY)
        first = state.get("features.0.weight") if isinstance(state, dict) else None
        if first is None or tuple(first.shape) not in _FIRST:
            raise UserError(f"score.lpips={path} must hold a network's state; {REMEDY}")
        kind = _FIRST[tuple(first.shape)]
        self.name = f"lpips_{kind}"
        self.device = torch.device(device)
        model = _LPIPS(net=kind, pnet_rand=True)  # pyright: ignore[reportArgumentType]
        # its slices number the layers as torchvision's `features` do
        own = {key: key.partition(".")[2] for key in model.net.state_dict()}
        taken = {key: state[f"features.{layer}"] for key, layer in own.items() if f"features.{layer}" in state}
        fill(model.net, taken, path, REMEDY)
        self.model = model.to(self.device)
        try:
            blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            self(blank, blank)
        except RuntimeError:
            raise UserError(f"data.image_size={size} is too small for {self.name}; leave score.lpips out") from None

    @torch.inference_mode()
    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """uint8 (B, ch, H, W), both -> float32 (B,), at least 0; grey images get three equal channels."""
        pair = (x.to(self.device).float().div(127.5).sub(1).expand(-1, 3, -1, -1) for x in (images, originals))
        return self.model(*pair).reshape(-1).cpu()
