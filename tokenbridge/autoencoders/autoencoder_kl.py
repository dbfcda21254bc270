"""The autoencoder classes of diffusers, AutoencoderKL and others, each imported without the rest of diffusers: in one
second instead of four; and the sizes that their settings tell, or that an own one can have.

The package that holds them imports all autoencoders and transformers, and with them torch._dynamo and scipy.stats.
While the class is imported stand-ins take their places; later imports, also of the same packages, find the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from tokenbridge.config import UserError

PACKAGE = "diffusers.models.autoencoders"
KL = "AutoencoderKL"
WIDTHS = (32, 48, 64, 64, 64, 64)
"""channels of an own autoencoder's levels, from the full resolution down, one level per halving"""
PACKAGES = (PACKAGE, "diffusers.models.unets", "diffusers.models.transformers")


class Sizes(NamedTuple):
    """Latent channels, pixels per latent position and axis, image channels."""

    channels: int
    stride: int
    image_channels: int
    image_size: int | None = None
    """pixels per side, where the model takes no other"""


class Class(NamedTuple):
    """An autoencoder class of diffusers: where it is, and how its settings tell its sizes."""

    module: str
    numbers: Mapping[str, int]
    """settings that are whole numbers, with diffusers' defaults"""
    lists: Mapping[str, int]
    """settings that have an item for each resolution, with the lengths of diffusers' defaults"""
    sizes: Callable[[Mapping[str, int]], Sizes]
    """from the numbers, and the lengths of the lists"""
    alike: tuple[tuple[str, str], ...] = (("in_channels", "out_channels"),)
    """pairs that must be equal for images to come back as they went in"""


def _plain(levels: str, channels: str = "latent_channels") -> Callable[[Mapping[str, int]], Sizes]:
    return lambda of: Sizes(of[channels] or of["latent_channels"], 2 ** (of[levels] - 1), of["in_channels"])


def _representation(of: Mapping[str, int]) -> Sizes:
    """Of AutoencoderRAE: its encoder scales images to its own size, its decoder has a patch for each position."""
    size = of["encoder_input_size"] // of["encoder_patch_size"] * of["patch_size"]
    return Sizes(of["encoder_hidden_size"], of["patch_size"], of["num_channels"], size)


_COLOURS = {"in_channels": 3, "out_channels": 3}
CLASSES = {
    KL: Class(
        "autoencoder_kl", _COLOURS | {"latent_channels": 4}, {"block_out_channels": 1}, _plain("block_out_channels")
    ),
    "AutoencoderTiny": Class(
        "autoencoder_tiny",
        _COLOURS | {"latent_channels": 4, "upsampling_scaling_factor": 2},
        {"num_encoder_blocks": 4, "num_decoder_blocks": 4},
        _plain("num_encoder_blocks"),
        (("in_channels", "out_channels"), ("num_encoder_blocks", "num_decoder_blocks")),
    ),
    "AutoencoderDC": Class(
        "autoencoder_dc",
        {"in_channels": 3, "latent_channels": 32},
        {"encoder_block_out_channels": 6, "decoder_block_out_channels": 6},
        _plain("encoder_block_out_channels"),
        (("encoder_block_out_channels", "decoder_block_out_channels"),),
    ),
    "AutoencoderRAE": Class(
        "autoencoder_rae",
        {
            "num_channels": 3,
            "encoder_hidden_size": 768,
            "encoder_patch_size": 14,
            "encoder_input_size": 224,
            "patch_size": 16,
        },
        {},
        _representation,
        (),
    ),
    "VQModel": Class(
        "vq_model",
        _COLOURS | {"latent_channels": 3, "vq_embed_dim": 0},
        {"block_out_channels": 1},
        _plain("block_out_channels", "vq_embed_dim"),
    ),
}
"""by the _class_name that save_pretrained writes. Of VQModel the latents are those before its codebook, and decoding
leaves the codebook out: what another quantizer costs would else be hidden behind it."""


def class_of(settings: Mapping[str, Any]) -> str:
    """The name of the class that settings are of; AutoencoderKL where they do not say."""
    return settings.get("_class_name", KL)


def sizes_of(settings: Mapping[str, Any]) -> Sizes:
    """Sizes of an autoencoder with these settings; where one is left out, diffusers' default holds."""
    kind = CLASSES[class_of(settings)]
    numbers = {name: settings.get(name, default) or 0 for name, default in kind.numbers.items()}
    lengths = {name: len(settings[name]) if name in settings else count for name, count in kind.lists.items()}
    return kind.sizes(numbers | lengths)


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


def autoencoder_class(name: str) -> Any:
    """diffusers' own class of this name, one of CLASSES. UserError for one that needs a package that is not here."""
    if name == "AutoencoderRAE" and find_spec("transformers") is None:
        raise UserError(f"{name} needs the package transformers, which holds its encoders; pip install transformers")
    module = f"{PACKAGE}.{CLASSES[name].module}"
    if module not in sys.modules:
        before = set(sys.modules)
        try:
            with _stand_ins():
                import_module(module)
        except Exception:  # a release of diffusers that is laid out otherwise: imported whole below, which tells errors
            for loaded in set(sys.modules) - before:
                if loaded.partition(".")[0] == "diffusers":
                    del sys.modules[loaded]
    return getattr(import_module(module), name)


def autoencoder_kl() -> Any:
    """diffusers' own class AutoencoderKL."""
    return autoencoder_class(KL)


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
