"""Metrics: numbers of images, in-domain and published.

frechet computes the Fréchet distance (FID) with its error, sets the other measures of a set of images against a
reference, images those of an image and its original; measures lists what the score stage measures. scorers declares the
networks and where their weights are, networks and published run them, extraction keeps what they give; libraries has
functions of torch-fidelity and torchmetrics. reference and reference_files read what images are measured against.
scorers and reference_files import no torch: planning asks them.
"""
