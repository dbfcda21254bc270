"""Exchange with other programs: released checkpoints come in, samples and trained generators go out.

released: read_released, require_fit and write_released turn a checkpoint of TokenBridge or MAR into a `train` stage.
export: Samples, write_npz and write_png write samples as other evaluators read them.
hub: write_exported and read_exported, a trained generator as a folder for Hugging Face; card: its model card.
"""
