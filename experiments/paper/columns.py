"""The columns of measured numbers, and those that several tables of the paper publish."""

from __future__ import annotations

from experiments.paper.form import Column

# fmt: off
MSE = Column(
    "quantizer/mse", "MSE ×10³", "lower", 2, scale=1e3,
    meaning="mean squared error that quantization adds to a latent value (latents have standard deviation 1)")
ENTROPY = Column(
    "quantizer/entropy_bits", "index entropy", "", 2, "bits/channel",
    meaning="information in one token index, at most log₂ of the number of levels")
PSNR = Column(
    "reconstruct/psnr", "PSNR", "higher", 2, "dB",
    meaning="peak signal-to-noise ratio of reconstructed held-out images against the originals")
SSIM = Column(
    "reconstruct/ssim", "SSIM", "higher", 4,
    meaning="structural similarity of reconstructed held-out images to the originals, at most 1")
RECONSTRUCTION_FD = Column(
    "reconstruct/fd_digits", "fd_digits", "lower", 3,
    meaning="Fréchet distance between features of real and reconstructed images, by the shipped digit classifier;"
    " it is not FID, which needs Inception features")
ORIGINALS_FD = Column(
    "reconstruct/fd_digits_held_out", "fd to originals", "lower", 4,
    meaning="fd_digits of the reconstructions against the very images that they reconstruct, where fd_digits takes the"
    " training images as its reference and cannot fall far below what other real images read")
FD = Column(
    "score/fd_digits", "fd_digits", "lower", 2,
    meaning="Fréchet distance between features of real and generated images, by the shipped digit classifier;"
    " it is not FID, which needs Inception features")
EXTRAPOLATED = Column(
    "score/fd_digits_extrapolated", "fd_digits, extrapolated", "", 2,
    meaning="fd_digits for infinitely many generated images, by FD∞ + a/N through two numbers of images")
BITS = Column(
    "likelihood/bits_per_dim", "bits/dim", "lower", 3,
    meaning="bits the model needs for one latent value of a held-out image, as a density (it can be negative)")
IS = Column(
    "score/is_digits", "is_digits", "higher", 2,
    meaning="Inception-style score with the shipped digit classifier, at most the number of classes")
AGREEMENT = Column(
    "score/agreement", "agreement", "higher", 1, "%", 100,
    meaning="share of generated images that the classifier reads as the class asked for")
PRECISION = Column(
    "score/precision_digits", "precision", "higher", 3,
    meaning="share of generated images that lie among the real ones in feature space")
RECALL = Column(
    "score/recall_digits", "recall", "higher", 3,
    meaning="share of real images that lie among the generated ones in feature space")

HEAD_PARAMETERS = Column(
    "train/head_parameters", "head parameters", "", 1, "thousand", 1e-3,
    meaning="weights of the head, counted in the model that was trained")
PARAMETERS = Column(
    "train/parameters", "parameters", "", 1, "thousand", 1e-3,
    meaning="weights of backbone and head together, counted in the model that was trained")
TRAINING_FLOPS = Column(
    "train/training_tflops", "training", "", 2, "TFLOP",
    meaning="floating-point operations of the matrix products of the whole training, counted as it runs")
TOKEN_BITS = Column(
    "quantizer/token_bits", "bits/token", "", 1,
    meaning="information that one token can carry: log₂ of how many different ones there are")
IMAGE_TIME = Column(
    "speed/image_ms", "time an image", "lower", 1, "ms",
    meaning="time to sample the tokens of one image, eight at a time, by a model measured alone; without the"
    " autoencoder; median")

TOKEN_MS = Column(
    "speed/token_ms_1", "batch 1", "lower", 2, "ms",
    meaning="time to draw one image token's channels from its feature, one token at a time; median")
RECOMPUTING_MS = Column(
    "speed/recomputing_ms_1", "batch 1, no cache", "lower", 2, "ms",
    meaning="the same without keys and values kept from one channel to the next, as the released sampler does it")
STEPWISE_MS = Column(
    "speed/stepwise_ms_1", "batch 1, step by step", "lower", 2, "ms",
    meaning="the same with the network's modulations computed anew in each step, as released samplers do it; here one"
    " product gives those of all steps")
TOKEN_MS_256 = Column(
    "speed/token_ms_256", "batch 256", "lower", 1, "ms",
    meaning="time to draw 256 tokens at once; median")

RECONSTRUCTION = (MSE, ENTROPY, PSNR, SSIM, RECONSTRUCTION_FD, ORIGINALS_FD)
GENERATION = (FD, BITS, IS, AGREEMENT, PRECISION, RECALL)

RFID_IS = (Column("rfid", "rFID", "lower"), Column("is", "IS", "higher", 1))
GFID_IS = (Column("gfid", "gFID", "lower"), Column("is", "IS", "higher", 1))
FID_IS_PR = (
    Column("params", "parameters", "", 0, "M"), Column("fid", "FID", "lower"), Column("is", "IS", "higher", 1),
    Column("precision", "precision", "higher"), Column("recall", "recall", "higher"),
)
# fmt: on
