# What `import tokenbridge as tb` gives, for checkers of types; see __init__.py.

from pathlib import Path

from experiments.cli.library import grid as grid
from experiments.cli.library import run as run
from tokenbridge.library.generators import load as load
from tokenbridge.library.latents import autoencoder as autoencoder
from tokenbridge.library.latents import quantizer as quantizer
from tokenbridge.library.scores import score as score

ASSETS: Path
