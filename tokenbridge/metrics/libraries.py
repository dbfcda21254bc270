"""Functions of torch-fidelity and torchmetrics, without the networks and plots that their packages import beside them.

Whole, they take 2 and 3 s of processor time beyond torch, most of it torchvision's, torch.compile's and matplotlib's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import accumulate
from types import ModuleType
from typing import Any

from tokenbridge.autoencoders.autoencoder_kl import package_folder

IMAGE_METRICS = {
    "peak_signal_noise_ratio": "torchmetrics.functional.image.psnr",
    "structural_similarity_index_measure": "torchmetrics.functional.image.ssim",
}


@cache
def fidelity(name: str) -> Callable[..., dict[str, float]]:
    """torch-fidelity's metric of features: isc or kid."""
    module = _alone(f"torch_fidelity.metric_{name}", ("torch_fidelity.utils",))
    return getattr(module, f"{name}_features_to_metric")


@cache
def image_metric(name: str) -> Callable[..., Any]:
    """torchmetrics' function of images and their originals, one of IMAGE_METRICS."""
    unused = [f"torchmetrics.{module}" for module in ("metric", "utilities.data", "utilities.prints")]
    return getattr(_alone(IMAGE_METRICS[name], unused), name)


def _alone(name: str, unused: Sequence[str]) -> ModuleType:
    """A library's module, imported without its packages' other modules, as a copy that no other import finds.

    Args:
        name: its full name.
        unused: modules that it or its like import and that what is wanted of it does not use.
    """
    top = name.partition(".")[0]
    if any(_within(top, loaded) for loaded in sys.modules):
        return import_module(name)
    with suppress(Exception):  # a release that is laid out otherwise: imported whole below, which tells errors
        try:
            parents = accumulate(name.split(".")[:-1], "{}.{}".format)
            for package in parents:
                sys.modules[package] = package_folder(package)
            sys.modules.update({other: _Unused(other) for other in unused})
            return import_module(name)
        finally:
            for loaded in [loaded for loaded in sys.modules if _within(top, loaded)]:
                del sys.modules[loaded]
    return import_module(name)


class _Unused(ModuleType):
    """Whatever name is imported from it is there, and is nothing."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def _within(package: str, module: str) -> bool:
    return module == package or module.startswith(f"{package}.")
