"""TokenBridge Lab: the model, from images to scores."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
"""weights that ship with the package, each with its card in JSON"""
