"""TokenBridge Lab's core: the model, from images to scores, without tracking, cluster, tables or command line.

store, data and tokenizers lie below autoencoders and model, these below metrics and speed; stages puts them together as
functions from artifacts to an artifact, and exchange takes in released weights and hands out samples. config holds
every setting. Imports go downwards only.
"""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
"""weights that ship with the package, each with its card in JSON"""
