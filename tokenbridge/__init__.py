"""TokenBridge Lab's core: the model, from images to scores, without tracking, cluster, tables or command line.

store, data and tokenizers lie below autoencoders and model, these below metrics and speed; stages puts them together as
functions from artifacts to an artifact, exchange takes in released weights and hands out samples, and library is what a
notebook takes from here. config holds every setting. Imports go downwards only.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenbridge.library.generators import load as load
    from tokenbridge.library.latents import autoencoder as autoencoder
    from tokenbridge.library.latents import quantizer as quantizer
    from tokenbridge.library.scores import score as score

ASSETS = Path(__file__).parent / "assets"
"""weights that ship with the package, each with its card in JSON"""

FACE = {"autoencoder": "latents", "quantizer": "latents", "load": "generators", "score": "scores"}
"""function -> its module in tokenbridge.library, which is imported when it is first asked for: it takes torch"""
__all__ = ["ASSETS", "autoencoder", "load", "quantizer", "score"]


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.library.{FACE[name]}"), name)
