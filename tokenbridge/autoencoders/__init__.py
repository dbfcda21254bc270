"""Autoencoders: images to latents and back.

sources: the one list SOURCES of where pretrained ones come from, and autoencoder_of, the autoencoder of a run; frozen:
FrozenAutoencoder; ldm: weights of latent diffusion under diffusers' names; train: training of small ones;
autoencoder_kl: diffusers' classes, the list CLASSES of them, without the rest of diffusers.
"""
