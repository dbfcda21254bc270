"""Data: images and their latents.

files: which images there are, without torch (split_of, fingerprint, class_count); survey: what those of a folder are
like; images: their pixels by batches (load, batches, stack, adm_crop); latents: the store of latents that the stage
`latents` leaves (Latents, to_grid).
"""
