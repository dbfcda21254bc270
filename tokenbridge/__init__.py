"""TokenBridge Lab's core: the model, from images to scores, without tracking, cluster, tables or command line.

store, data and tokenizers lie below autoencoders and model, these below metrics and speed; stages puts them together as
functions from artifacts to an artifact, exchange takes in released weights and hands out samples, and library is what a
notebook takes from here. config holds every setting. Imports go downwards only.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
"""weights that ship with the package, each with its card in JSON"""

FACE = {
    "autoencoder": "tokenbridge.library.latents",
    "quantizer": "tokenbridge.library.latents",
    "load": "tokenbridge.library.generators",
    "score": "tokenbridge.library.scores",
    "run": "experiments.cli.library",
    "grid": "experiments.cli.library",
}
"""function -> its module, which is imported when it is first asked for: it takes torch. Of experiments, which stands
above this package, only these names are known here; __init__.pyi has the types"""
__all__ = ["ASSETS", "autoencoder", "grid", "load", "quantizer", "run", "score"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not FACE[name].startswith(f"{__name__}."):
        from tokenbridge.packages import ours_first

        ours_first()
    return getattr(import_module(FACE[name]), name)
