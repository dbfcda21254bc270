"""`tb.score` against torch-fidelity on the same images and network: python -m tests.bench.score [IMAGES].

Both measure FID, Inception score, KID, precision and recall of as many samples as reference images, each in one pass
over the features, with random weights of the same file; torch-fidelity has its cache off, as a first call has. Ours
measures sFID, density, coverage and errors over images beside. First of JPEG files, then, so that decoding tells
nothing, of the same tensors in memory. Processor's seconds, in turn; the numbers must agree.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import tokenbridge as tb
from tests.bench.load import seconds
from tests.helpers.scorers import pictures, write_inception
from tokenbridge.metrics.scorers import SCORERS

ROUNDS, BATCH, SIZE, GOAL = 3, 50, 256, 1


class Tensors(Dataset[Tensor]):
    """Images as torch-fidelity takes them from memory: uint8 (3, H, W)."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def write_files(folder: Path, images: np.ndarray) -> Path:
    from PIL import Image

    folder.mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number:05d}.jpg", quality=95)
    return folder


def main() -> None:
    from torch_fidelity import calculate_metrics

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_inception(root)
        weights = root / SCORERS["inception"].file
        images = [pictures(count, seed=seed, size=SIZE) for seed in (1, 2)]
        folders = [write_files(root / f"{number}", each) for number, each in enumerate(images)]
        tensors = [torch.from_numpy(each) for each in images]
        sets = {
            "files": (folders, list(map(str, folders))),
            "tensors": (tensors, [Tensors(each) for each in tensors]),
        }
        for what, (own, their) in sets.items():
            found: dict[str, float] = {}

            def ours(own=own, found=found) -> None:
                found["ours"] = tb.score(*own, features="inception", weights=root, device="cpu", batch=BATCH)["fid_tf"]

            def theirs(their=their, found=found) -> None:
                found["theirs"] = calculate_metrics(
                    input1=their[0], input2=their[1], fid=True, isc=True, kid=True, prc=True, kid_subset_size=count,
                    feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
                    cache=False, cuda=False, verbose=False, batch_size=BATCH,
                )["frechet_inception_distance"]  # fmt: skip

            for _ in range(ROUNDS):
                (_, fast), (_, slow) = seconds(ours), seconds(theirs)
                print(
                    f"{what}: ours {fast:.1f} s, torch-fidelity {slow:.1f} s: {slow / fast:.2f} times (goal {GOAL});"
                    f" fid_tf {found['ours']:.6g} and {found['theirs']:.6g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
