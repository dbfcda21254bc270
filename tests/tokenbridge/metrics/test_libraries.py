"""Functions of torch-fidelity and torchmetrics come without the rest, and are the libraries' own."""

import subprocess
import sys

import pytest

ALONE = """
import sys
from tokenbridge.metrics.libraries import IMAGE_METRICS, fidelity, image_metric

ours = {name: fidelity(name) for name in ("isc", "kid")} | {name: image_metric(name) for name in IMAGE_METRICS}
heavy = {"torch._dynamo", "torchvision", "torchmetrics", "torch_fidelity", "matplotlib", "scipy.signal", "sympy"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()

import torch
import torch_fidelity
import torchmetrics.functional.image as theirs
from torch_fidelity import metric_isc, metric_kid

features = torch.rand(2, 60, 5, generator=torch.Generator().manual_seed(0))
how = {"kid_subsets": 3, "kid_subset_size": 50, "rng_seed": 0, "verbose": False}
assert ours["kid"](*features, **how) == metric_kid.kid_features_to_metric(*features, **how)
assert ours["isc"](features[0]) == metric_isc.isc_features_to_metric(features[0])
images = (255 * torch.rand(2, 4, 1, 16, 16, generator=torch.Generator().manual_seed(1))).round().double()
how = {"data_range": 255.0, "dim": (1, 2, 3), "reduction": "none"}
name = "peak_signal_noise_ratio"
assert torch.equal(ours[name](*images, **how), getattr(theirs, name)(*images, **how))
how = {"data_range": 255.0, "gaussian_kernel": False, "kernel_size": 7, "reduction": "none"}
name = "structural_similarity_index_measure"
assert torch.equal(ours[name](*images, **how), getattr(theirs, name)(*images, **how))
assert fidelity("isc") is ours["isc"] is not metric_isc.isc_features_to_metric, "a copy of its own"
"""

IMPORTED_BEFORE = """
from torch_fidelity import metric_isc
from tokenbridge.metrics.libraries import fidelity

assert fidelity("isc") is metric_isc.isc_features_to_metric
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_they_come_alone_and_give_what_the_libraries_give():
    run(ALONE)


@pytest.mark.slow
def test_where_the_library_is_imported_already_it_is_taken():
    run(IMPORTED_BEFORE)
