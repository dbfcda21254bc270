"""JPEGs of 500×375 pixels, as ADM crops them to 256, against torchvision's ways: python -m tests.bench.images [IMAGES].

Goal: 1.3 times as fast as each. Processor's milliseconds per image in one process, so that other programs take nothing;
as many readers each would divide all by the same number. The pixels must be those of ADM's own crop, so decoding and
both passes of scaling are Pillow's, which is nine tenths of the time: the goal is reached against float32 tensors, as
ToTensor makes them, and not against the best that ImageFolder can do, which keeps bytes.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import io, transforms
from torchvision.datasets import ImageFolder

from tokenbridge.data import images

SIZE, BATCH, ROUNDS, GOAL = 256, 64, 5, 1.3


def write(folder: Path, count: int) -> None:
    draws = np.random.default_rng(0)
    for number in range(count):
        (place := folder / str(number % 2)).mkdir(exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + draws.normal(0, 8, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number:05d}.jpg", quality=92)


def crop(image: Image.Image) -> np.ndarray:
    """center_crop_arr of guided-diffusion, for images of less than 512 pixels."""
    scale = SIZE / min(image.size)
    whole = np.array(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC))
    top, left = (whole.shape[0] - SIZE) // 2, (whole.shape[1] - SIZE) // 2
    return whole[top : top + SIZE, left : left + SIZE]


class Decoded(Dataset[tuple[Tensor, int]]):
    """torchvision's decoder and its own scaling, of bytes: other pixels than ADM's."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        bicubic = transforms.InterpolationMode.BICUBIC
        self.cut = transforms.Compose([transforms.Resize(SIZE, bicubic), transforms.CenterCrop(SIZE)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cut(io.decode_jpeg(io.read_file(str(self.paths[index])), mode=io.ImageReadMode.RGB)), 0


def in_turn(ways: Mapping[str, Callable[[], object]], count: int) -> None:
    """Print the processor's milliseconds per image of each way, and how many times those of `ours` they are.

    Args:
        ways: what to time, by name; each handles `count` images.
        count: images.
    """
    times = {way: list[float]() for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.process_time()
            run()
            times[way].append((time.process_time() - start) / count * 1e3)
    first = float(np.median(times["ours"]))
    for way, each in times.items():
        told = f": {np.median(each) / first:.2f} times ours (goal {GOAL})" if way != "ours" else ""
        print(f"{way} {np.median(each):.2f} ms{told}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), count)
        paths = sorted(Path(name).glob("*/*.jpg"))
        ours = images.FileImages(paths, np.zeros(count, np.int64), SIZE, 3)
        as_bytes = ImageFolder(name, lambda image: torch.from_numpy(crop(image).transpose(2, 0, 1).copy()))
        as_floats = ImageFolder(name, lambda image: transforms.functional.to_tensor(crop(image)))
        ways: dict[str, Callable[[], list[Tensor]]] = {
            "ours": lambda: [part for part, _ in images.batches(ours, BATCH)],
            "ImageFolder, ADM's crop, bytes": lambda: [part for part, _ in DataLoader(as_bytes, BATCH)],
            "ImageFolder, ADM's crop, ToTensor": lambda: [part for part, _ in DataLoader(as_floats, BATCH)],
            "decode_jpeg, torchvision's scaling": lambda: [part for part, _ in DataLoader(Decoded(paths), BATCH)],
        }
        assert torch.equal(torch.cat(ways["ours"]()), torch.cat(ways["ImageFolder, ADM's crop, bytes"]()))
        in_turn(ways, count)


if __name__ == "__main__":
    main()
