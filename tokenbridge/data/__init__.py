"""Data: images and their latents.

files: which images there are, without torch (split_of, fingerprint, remarks); sources: the contract of where they come
from, which digits, class_folders, parquet, tar and torchvision_sets keep; pictures: reading one; survey: what those of
a source are like; images: their pixels by batches (load, batches, stack, fitted); latents: the store of latents that
the stage `latents` leaves (Latents, to_grid).
"""
