"""`tokenbridge score` against torch-fidelity on the same JPEG files and network: python -m tests.bench.score [IMAGES].

Both measure FID, Inception score, KID, precision and recall of as many samples as reference images, each in one pass
over the features, with random weights of the same file; torch-fidelity has its cache off, as a first call has. Ours
measures sFID, density, coverage and errors over images beside. They take turns; the numbers must agree.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch

from tests.bench.load import seconds
from tests.helpers.scorers import pictures, write_inception
from tokenbridge.config import Runtime, Score
from tokenbridge.library.compare import compare
from tokenbridge.library.image_sets import of_folder
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.store.artifacts import Store

ROUNDS, BATCH, SIZE = 3, 50, 256


def write_files(folder: Path, count: int, seed: int) -> Path:
    from PIL import Image

    folder.mkdir()
    for number, pixels in enumerate(pictures(count, seed=seed, size=SIZE)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number:05d}.jpg", quality=95)
    return folder


def main() -> None:
    from torch_fidelity import calculate_metrics

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_inception(root)
        weights = root / SCORERS["inception"].file
        mine, real = write_files(root / "samples", count, 1), write_files(root / "real", count, 2)
        found: dict[str, float] = {}

        def ours(number: int) -> None:
            score = Score(features="inception", weights=str(root))
            (result,) = compare(
                of_folder(mine), of_folder(real), score, Store(root / f"{number}"), Runtime(batch=BATCH)
            )
            found["ours"] = result.metrics["fid_tf"]

        def theirs() -> None:
            metrics = calculate_metrics(
                input1=str(mine), input2=str(real), fid=True, isc=True, kid=True, prc=True, kid_subset_size=count,
                feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
                cache=False, cuda=False, verbose=False, batch_size=BATCH,
            )  # fmt: skip
            found["theirs"] = metrics["frechet_inception_distance"]

        for number in range(ROUNDS):
            fast, slow = seconds(lambda number=number: ours(number)), seconds(theirs)
            print(
                f"ours {fast[0]:.1f} s, torch-fidelity {slow[0]:.1f} s: {slow[0] / fast[0]:.2f} times (goal 1); fid_tf"
                f" {found['ours']:.6g} and {found['theirs']:.6g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
