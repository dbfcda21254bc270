"""Measures of images: in-domain features, Fréchet distance and friends, image metrics, intervals."""
