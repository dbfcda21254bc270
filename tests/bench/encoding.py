"""The stage that encodes JPEGs against a plain loop over a DataLoader: python -m tests.bench.encoding [IMAGES].

Goal: 1.3 times as fast. The opponent is what a script has: ImageFolder with ADM's crop and ToTensor in a DataLoader,
and diffusers' AutoencoderKL under inference_mode, once as it is and once, as its best, in channels_last: the goal is
reached against the first. Processor's milliseconds per image on one thread, in turn; ours writes the moments to a file
too. Equal moments are asserted first.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from experiments.presets import SMALL
from tests.bench.images import SIZE, crop, in_turn, write
from tokenbridge.config import Runtime
from tokenbridge.overrides import override
from tokenbridge.stages import latents

BATCH = 8
WIDTHS = (32, 64, 64, 64, 128)


def main() -> None:
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        write(root / "images", count)
        torch.manual_seed(0)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 5, up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=WIDTHS, latent_channels=16, sample_size=SIZE,
        ).eval()  # fmt: skip
        model.save_pretrained(root / "autoencoder")
        config = override(SMALL, {
            "data.path": str(root / "images"), "data.test_path": str(root / "images"), "data.image_size": SIZE,
            "data.validation_fraction": 0.0, "autoencoder.path": str(root / "autoencoder"),
            "autoencoder.channels": 16, "autoencoder.stride": 16, "score.features": "autoencoder",
            "score.weights": str(root / "autoencoder"),
        })  # fmt: skip
        made = iter(range(1000))

        def ours() -> Tensor:
            out = root / f"latents-{next(made)}"
            out.mkdir()
            latents.run(config, {}, out, Runtime(device="cpu", threads=1, batch=BATCH))
            return torch.from_numpy(np.load(out / "train_moments.npy"))

        def plain(layout: torch.memory_format) -> Tensor:
            network = AutoencoderKL.from_pretrained(root / "autoencoder").eval().to(memory_format=layout)
            images = ImageFolder(str(root / "images"), lambda image: to_tensor(crop(image)) * 2 - 1)
            found = []
            for _ in range(2):  # the test images are the same folder, which the stage encodes too
                with torch.inference_mode():
                    moments = [
                        network.encode(pixels.contiguous(memory_format=layout)).latent_dist.parameters
                        for pixels, _ in DataLoader(images, BATCH)
                    ]
                found.append(torch.cat(moments))
            np.save(root / "plain.npy", found[0].numpy())
            return found[0]

        ways: dict[str, Callable[[], Tensor]] = {
            "ours": ours,
            "DataLoader and encode": lambda: plain(torch.contiguous_format),
            "the same in channels_last": lambda: plain(torch.channels_last),
        }
        first, *others = (way() for way in ways.values())
        for other in others:
            torch.testing.assert_close(first, other, rtol=1e-3, atol=1e-4)
        in_turn(ways, 2 * count)


if __name__ == "__main__":
    main()
