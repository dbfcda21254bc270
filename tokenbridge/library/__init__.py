"""The library: what `import tokenbridge as tb` gives, in few words each; the commands use the rooms below instead.

latents: autoencoder and quantizer, on plain tensors; generators: load, a trained run; scores: score, two sets of
images, which compare measures and image_sets opens.
"""
