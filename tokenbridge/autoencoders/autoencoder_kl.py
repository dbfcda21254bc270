"""The class AutoencoderKL of diffusers, imported without the rest of diffusers: in one second instead of four; and the
sizes that its settings tell, or that an own one can have.

The package that holds it imports every other autoencoder and transformer, and with them torch._dynamo and scipy.stats.
While the class is imported stand-ins take their places; later imports, also of the same packages, find the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from tokenbridge.config import UserError

MODULE = "diffusers.models.autoencoders.autoencoder_kl"
WIDTHS = (32, 48, 64, 64, 64, 64)
"""channels of an own autoencoder's levels, from the full resolution down, one level per halving"""
PACKAGES = ("diffusers.models.autoencoders", "diffusers.models.unets", "diffusers.models.transformers")


class Sizes(NamedTuple):
    """Latent channels, pixels per latent position and axis, image channels."""

    channels: int
    stride: int
    image_channels: int


def sizes_of(settings: Mapping[str, Any]) -> Sizes:
    """Sizes of an AutoencoderKL with these settings; where one is left out, diffusers' default holds."""
    halvings = len(settings.get("block_out_channels", (64,))) - 1
    return Sizes(settings.get("latent_channels", 4), 2**halvings, settings.get("in_channels", 3))


def require_stride(stride: int, size: int | None, option: str = "--stride ") -> None:
    """Raise UserError unless an own autoencoder can have a stride: a power of two for which there is a body.

    Args:
        stride: pixels per latent position and side.
        size: of the images, which it must divide; None where that is not known yet.
        option: what gives the stride, as it stands before it.
    """
    if stride < 2 or stride & (stride - 1) or stride.bit_length() > len(WIDTHS) or (size or 0) % stride:
        raise UserError(
            f"{option}{stride} must be a power of two from 2 to {2 ** (len(WIDTHS) - 1)} that divides the image size"
            + (f", {size}" if size else "")
        )


def autoencoder_kl() -> Any:
    """diffusers' own class AutoencoderKL."""
    if MODULE not in sys.modules:
        before = set(sys.modules)
        try:
            with _stand_ins():
                import_module(MODULE)
        except Exception:  # a release of diffusers that is laid out otherwise: imported whole below, which tells errors
            for name in set(sys.modules) - before:
                if name.partition(".")[0] == "diffusers":
                    del sys.modules[name]
    return import_module(MODULE).AutoencoderKL


@contextmanager
def _stand_ins() -> Iterator[None]:
    put: dict[str, ModuleType] = {}

    def put_in(module: ModuleType) -> None:
        if module.__name__ not in sys.modules:
            sys.modules[module.__name__] = put[module.__name__] = module

    try:
        put_in(_dynamo())
        put_in(ModuleType("scipy.stats"))  # used at call time alone, where scipy imports it
        for name in PACKAGES:
            put_in(package_folder(name))
        yield
    finally:
        for name, module in put.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _dynamo() -> ModuleType:
    """Stand-in with what diffusers takes of torch._dynamo: `disable` as torch itself delays it, no marks."""
    from torch._compile import _disable_dynamo

    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        return _disable_dynamo(fn, recursive)

    module = ModuleType("torch._dynamo")
    vars(module).update(allow_in_graph=lambda fn: fn, disable=disable)
    return module


def package_folder(name: str) -> ModuleType:
    """A package's folder, where its modules are found, without what the package itself imports."""
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{name} is no package")
    module = ModuleType(name)
    module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations)
    return module
