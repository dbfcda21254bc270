"""The one list of metrics: the numbers that stages leave in metrics.json, in words. Needs no torch.

A key is `<stage>/<name in metrics.json>`, as in the frame and in MLflow. What a scorer measures is declared once, with
placeholders for what the scorers declare of themselves (scorers.py): {fd} and {rfd}, the names of its Fréchet distance
for samples and for reconstructions; {suffix}, which ends its other names; {by}, who sees the images; {caveat}.

A metric that is added here can stand in tables and has its column in MLflow, its direction in `tune`, its words in
pivot tables and reports.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal

from tokenbridge.metrics import scorers
from tokenbridge.metrics.scorers import SCORERS, SHIPPED


@dataclass(frozen=True)
class Metric:
    """A number and its words, for a reader who is new to the field."""

    key: str
    title: str
    better: Literal["lower", "higher", ""] = ""
    decimals: int = 2
    unit: str = ""
    scale: float = 1.0
    """factor from the stored number to the printed one; the title or the unit says so"""
    meaning: str = ""
    """one sentence without its full stop"""
    needs: Literal["", "in_domain", "published", "classifies", "knows_classes", "spatial", "cmmd"] = ""
    """attribute that a scorer must have to measure it"""
    fields: tuple[str, ...] = ()
    """those fields of its stage's protocol that it depends on and others of the stage do not; all read the rest"""
    scorer: str = field(default="", compare=False)
    """which measures it, where one does"""
    spread: Literal["plain", "log", "logit"] = "plain"
    """scale on which it varies evenly from seed to seed: as it is, in proportion to itself, or as a share does"""
    count: tuple[str, ...] = ()
    """fields of its stage's protocol with the number of images that it is a share of: the first that is there"""

    @cached_property
    def stage(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Its key in the stage's metrics.json."""
        return self.key.partition("/")[2]

    def by(self, scorer: str) -> Metric | None:
        """The metric as this scorer measures it, None where it cannot; one without scorer as it is."""
        words = vars(SCORERS[scorer])
        if self.needs and not getattr(SCORERS[scorer], self.needs):
            return None
        told = {field: getattr(self, field).format_map(words) for field in ("key", "title", "meaning")}
        return replace(self, **told, scorer=scorer if self.needs or told["key"] != self.key else "")


ARROWS = {"lower": "↓", "higher": "↑", "": ""}
"""which way is better, as a sign"""

FEATURES = (
    *("features", "features_name", "features_width", "features_weights", "features_code"),
    *("features_left_out", "resize"),
)
REFERENCE = (*FEATURES, "reference", "reference_images", "reference_hash", "reference_weights")
NEIGHBOURS = (*REFERENCE, "prc_neighborhood", "prc_reference_images", "left_out")
SUBSETS = (*REFERENCE, "kid_subsets", "kid_subset_size", "metric_seed", "left_out")
CLASSES = (*FEATURES, "is_splits", "metric_seed")

# fmt: off
FD = Metric(
    "score/{fd}", "{fd}", "lower", 2, fields=(*REFERENCE, "fd_se", "floor"), spread="log",
    meaning="Fréchet distance between features of real and generated images, by {by}{caveat}")
EXTRAPOLATED = Metric(
    "score/{fd}_extrapolated", "{fd}, extrapolated", "", 2, needs="in_domain", fields=REFERENCE,
    meaning="{fd} for infinitely many generated images, by FD∞ + a/N through two numbers of images")
INFINITY = Metric(
    "score/{fd}_infinity", "{fd}, extrapolated", "", 2, needs="published", fields=REFERENCE,
    meaning="{fd} for infinitely many generated images, by FD∞ + a/N through several numbers of images")
BITS = Metric(
    "likelihood/bits_per_dim", "bits/dim", "lower", 3,
    meaning="bits the model needs for one latent value of a test image, as a density (it can be negative); of"
    " levels a uniform one within each bin, so that it depends on the bins too")
# parts of a likelihood: between equal bins they differ as the density does, so its verdict is theirs
TOKEN_BITS_PER_DIM = Metric(
    "likelihood/token_bits_per_dim", "bits/dim of tokens", "", 3,
    meaning="bits the model needs to name the bin of one latent value of a test image")
NORMAL_BITS = Metric(
    "likelihood/bits_per_dim_normal", "bits/dim, normal in bins", "", 3,
    meaning="bits per latent value as a density that within a bin is the channel's normal, fitted to training latents")
BIN_BITS = Metric(
    "likelihood/bin_bits_per_dim", "log₂ of bin width", "", 3,
    meaning="mean over latent values; with the bits of tokens it adds up to bits/dim, as a uniform density spreads a"
    " token's probability over its bin")
BASE_IN_BINS = Metric(
    "likelihood/base_bits_per_dim", "base in these bins", "", 3,
    meaning="bits/dim of the base row, a density of values, made constant within the bins of this row: with it a row of"
    " levels is compared")
BIN_COST = Metric(
    "likelihood/bin_cost_per_dim", "cost of these bins", "", 3,
    meaning="how far the base in these bins lies above the base itself: bits/dim that bins cost whatever the model")
IS = Metric(
    "score/is_{suffix}", "is_{suffix}", "higher", 2, needs="classifies", fields=CLASSES,
    meaning="Inception score's formula (arXiv 1606.03498) with the classes of {by}: higher where images are clear and"
    " varied, at most the number of classes")
AGREEMENT = Metric(
    "score/{agreement}", "agreement", "higher", 1, "%", 100, needs="knows_classes", fields=FEATURES,
    spread="logit", count=("images",),
    meaning="share of generated images that the classifier reads as the class asked for")
PRECISION = Metric(
    "score/precision_{suffix}", "precision", "higher", 3, fields=NEIGHBOURS,
    spread="logit", count=("images",),
    meaning="share of generated images that lie among the real ones in feature space")
RECALL = Metric(
    "score/recall_{suffix}", "recall", "higher", 3, fields=NEIGHBOURS,
    spread="logit", count=("prc_reference_images", "reference_images"),
    meaning="share of real images that lie among the generated ones in feature space")
DENSITY = Metric(
    "score/density_{suffix}", "density", "higher", 3, needs="published", fields=NEIGHBOURS,
    meaning="neighbourhoods of real images that a generated one lies in, over those expected of a real one (arXiv"
    " 2002.09797)")
COVERAGE = Metric(
    "score/coverage_{suffix}", "coverage", "higher", 3, needs="published", fields=NEIGHBOURS,
    spread="logit", count=("prc_reference_images", "reference_images"),
    meaning="share of real images whose neighbourhood holds a generated one (arXiv 2002.09797)")
KID = Metric(
    "score/kid_{suffix}_x1e3", "KID ×10³", "lower", 3, fields=SUBSETS,
    meaning="squared kernel distance between features of real and generated images, by {by}, without bias by their"
    " number (arXiv 1801.01401)")
CMMD = Metric(
    "score/cmmd", "CMMD", "lower", 3, needs="cmmd", fields=REFERENCE,
    meaning="squared kernel distance between embeddings of real and generated images, by {by}, × 1000 (arXiv"
    " 2401.09603)")
MEMORIZATION = Metric(
    "score/memorized_{suffix}", "memorized", "", 1, "%", 100, fields=(*REFERENCE, "floor", "memorized_train_images"),
    meaning="share of generated images, in excess of chance, whose nearest real image is a training image: 0 where"
    " training and other images are alike to the model, 100 % where it copies")
SPATIAL_FD = Metric(
    "score/s{fd}", "s{fd}", "lower", 2, needs="spatial", fields=REFERENCE, spread="log",
    meaning="{fd} by spatial features, which see the arrangement of an image (arXiv 2103.03841)")

RECONSTRUCTION_FD = Metric(
    "reconstruct/{rfd}", "{rfd}", "lower", 3, fields=(*REFERENCE, "fd_se"), spread="log",
    meaning="Fréchet distance between features of real and reconstructed images, by {by}{caveat}")
PSNR = Metric(
    "reconstruct/psnr", "PSNR", "higher", 2, "dB", fields=("psnr",),
    meaning="peak signal-to-noise ratio of reconstructed test images against the originals")
SSIM = Metric(
    "reconstruct/ssim", "SSIM", "higher", 4, fields=("ssim",),
    meaning="structural similarity of reconstructed test images to the originals, at most 1")
MSE = Metric(
    "quantizer/mse", "MSE ×10³", "lower", 2, scale=1e3,
    meaning="mean squared error that quantization adds to a latent value (latents have standard deviation 1)")
ORIGINALS_FD = Metric(
    "reconstruct/{rfd}_originals", "{rfd} to originals", "lower", 4, fields=FEATURES, spread="log",
    meaning="{rfd} of the reconstructions against the very images that they reconstruct, where {rfd} takes the"
    " training images as its reference and cannot fall far below what other real images read")

RECONSTRUCTION_IS = Metric(
    "reconstruct/is_{suffix}", "is_{suffix}", "higher", 2, needs="classifies", fields=CLASSES,
    meaning="Inception score's formula on reconstructed test images, with the classes of {by}")
RECONSTRUCTION_AGREEMENT = Metric(
    "reconstruct/{agreement}", "agreement", "higher", 1, "%", 100, needs="knows_classes", fields=FEATURES,
    spread="logit", count=("images",),
    meaning="share of reconstructed test images that the classifier reads as their class")

ENTROPY = Metric(
    "quantizer/entropy_bits", "index entropy", "", 2, "bits/channel",
    meaning="information in one token index, at most log₂ of the number of levels")
TOKEN_BITS = Metric(
    "quantizer/token_bits", "bits/token", "", 1,
    meaning="information that one token can carry: log₂ of how many different ones there are")
HEAD_PARAMETERS = Metric(
    "train/head_parameters", "head parameters", "", 1, "thousand", 1e-3,
    meaning="weights of the head, counted in the model that was trained")
PARAMETERS = Metric(
    "train/parameters", "parameters", "", 1, "thousand", 1e-3,
    meaning="weights of backbone and head together, counted in the model that was trained")
TRAINING_FLOPS = Metric(
    "train/training_tflops", "training", "", 2, "TFLOP",
    meaning="floating-point operations of the matrix products of the whole training, counted as it runs")
IMAGE_TIME = Metric(
    "speed/image_ms", "time per image", "lower", 1, "ms", spread="log",
    meaning="time to sample the tokens of one image, eight at a time, by a model measured alone; without the"
    " autoencoder; median")
TOKEN_MS = Metric(
    "speed/token_ms_1", "batch 1", "lower", 2, "ms", spread="log",
    meaning="time to draw one image token's channels from its feature, one token at a time; median")
RECOMPUTING_MS = Metric(
    "speed/recomputing_ms_1", "batch 1, no cache", "lower", 2, "ms", spread="log",
    meaning="the same without keys and values kept from one channel to the next, as the released sampler does it")
STEPWISE_MS = Metric(
    "speed/stepwise_ms_1", "batch 1, step by step", "lower", 2, "ms", spread="log",
    meaning="the same with the network's modulations computed anew in each step, as released samplers do it; here one"
    " product gives those of all steps")
TOKEN_MS_256 = Metric(
    "speed/token_ms_256", "batch 256", "lower", 1, "ms", spread="log",
    meaning="time to draw 256 tokens at once; median")

CORRELATION = Metric(
    "autoencoder/mean_correlation", "correlation of channels", "", 3,
    meaning="mean absolute correlation of two latent channels, posterior means of test images: how much they repeat"
    " each other")

METRICS: tuple[Metric, ...] = (
    # the most telling first: so MLflow orders its columns
    FD, BITS, TOKEN_BITS_PER_DIM, BIN_BITS, NORMAL_BITS, BASE_IN_BINS, BIN_COST, IS, AGREEMENT, PRECISION, RECALL,
    RECONSTRUCTION_FD, PSNR, SSIM, MSE, ORIGINALS_FD, MEMORIZATION, KID, CMMD, SPATIAL_FD, DENSITY, COVERAGE, INFINITY,
    EXTRAPOLATED,
    Metric("reconstruct/lpips_vgg", "LPIPS (VGG)", "lower", 4, fields=("lpips_weights",),
           meaning="distance of reconstructed test images to the originals by VGG-16 (arXiv 1801.03924)"),
    Metric("reconstruct/lpips_alex", "LPIPS (AlexNet)", "lower", 4, fields=("lpips_weights",),
           meaning="distance of reconstructed test images to the originals by AlexNet (arXiv 1801.03924)"),
    RECONSTRUCTION_IS, RECONSTRUCTION_AGREEMENT,
    Metric("reconstruct/effective_bits", "effective bits", "", 1, "bits/image",
           meaning="entropies of the channels' token indices, summed over the channels and positions of an image"),
    ENTROPY, TOKEN_BITS,
    Metric("quantizer/clipped", "clipped", "", 3, "%", 100,
           meaning="share of latent values beyond the quantizer's range, or beyond the extremes that it was fitted to"),
    Metric("quantizer/snr_db", "SNR", "", 2, "dB",
           meaning="variance of the latents over the error that quantization adds"),
    Metric("quantizer/unused_levels", "unused levels", "", 1, meaning="levels that no value takes, mean over channels"),
    *(Metric(key, "used codes", "", 1, "%", 100, "share of all different tokens that occur")
      for key in ("quantizer/used_codes", "tokenizer/used_codes")),
    *(Metric(key, "perplexity", "", 1, meaning="number of equally frequent tokens that would carry as much information")
      for key in ("quantizer/perplexity", "tokenizer/perplexity")),
    *(Metric(key, f"{name} limit ×10³", "", 2, scale=1e3,
             meaning=f"mean squared error of {of}, for normal latents of the same variance")
      for key, name, of in (
          ("quantizer/limit_panter_dite", "Panter–Dite", "the best quantizer of so many levels"),
          ("quantizer/limit_entropy_coded", "entropy-coded", "uniform levels at this index entropy"),
          ("quantizer/limit_shannon", "Shannon", "any code at this index entropy"))),
    Metric("tokenizer/psnr", "PSNR", "", 2, "dB",
           meaning="peak signal-to-noise ratio of test images through the trained tokenizer against the originals"),
    Metric("autoencoder/psnr", "PSNR", "", 2, "dB",
           meaning="peak signal-to-noise ratio of test images through the trained autoencoder, by posterior means"),
    CORRELATION,
    Metric("autoencoder/informative_channels", "informative channels", "", 0,
           meaning="latent channels whose posterior is narrower than half of their spread"),
    Metric("autoencoder/parameters", "autoencoder parameters", "", 1, "thousand", 1e-3, "weights of the autoencoder"),
    Metric("tokenizer/parameters", "tokenizer parameters", "", 1, "thousand", 1e-3,
           "weights of the tokenizer with its autoencoder"),
    HEAD_PARAMETERS, PARAMETERS, TRAINING_FLOPS,
    Metric("train/steps", "steps", "", 0, meaning="training steps"),
    Metric("train/validation_loss", "validation loss", "", 4,
           meaning="loss per channel at masked positions of validation images, averaged weights, in the head's unit"),
    Metric("train/held_out_loss", "loss on test images", "", 4,
           meaning="as the validation loss, on test images: of runs that had no validation images"),
    Metric("likelihood/beyond_extremes", "beyond extremes", "", 3, "%", 100,
           meaning="share of latent values of test images beyond those that the outer bins end at"),
    Metric("sample/images", "images", "", 0, meaning="generated images"),
    IMAGE_TIME, TOKEN_MS, RECOMPUTING_MS, STEPWISE_MS, TOKEN_MS_256,
    Metric("speed/image_compiled_ms", "time per image, compiled", "lower", 1, "ms", spread="log",
           meaning="time to sample the tokens of one image with the backbone compiled in bfloat16; median"),
    Metric("speed/graph_ms_1", "batch 1, CUDA graph", "lower", 2, "ms", spread="log",
           meaning="time to draw one image token's channels as one captured graph; median"),
    Metric("speed/least_ms_1", "batch 1, weights read", "", 2, "ms",
           meaning="time to read the head's weights from memory as often as one image token needs them"),
    Metric("speed/train_images_per_second", "training speed", "higher", 0, "images/s", spread="log",
           meaning="images that training takes in per second, all of a step included"),
    Metric("speed/peak_memory_mb", "peak memory", "lower", 0, "MiB", spread="log",
           meaning="most GPU memory that a training step held"),
)


@dataclass(frozen=True)
class Rule:
    """Metrics that go with another one: their names match a pattern, which holds the other's name."""

    pattern: str
    of: str
    """the other's name, with {} for what the pattern holds"""
    meaning: str
    """with {} for the other's title"""
    unit: bool = True
    """whether the number has the other's unit and scale"""


RULES = (
    Rule(r"token_bits_per_dim_b\d+", "token_bits_per_dim", "{}, by a density of values, for bins of so many levels"),
    Rule(r"bits_per_dim_b\d+", "bits_per_dim", "{}, of a density of values made constant in bins of so many levels"),
    Rule(r"(.+)_se", "{}", "standard error of {}"),
    Rule(r"(.+)_spread", "{}", "spread of {} over the repetitions"),
    Rule(r"(.+)_at_floor_images", "{}", "{} of as many generated images as the floor has"),
    Rule(r"(.+)_floor_images", "{}", "images behind the floor of {}", unit=False),
    Rule(r"(.+)_floor", "{}", "{} of as many real images, which no generator can beat"),
    Rule(r"calibration_(.+)", "{}", "{} of the training latents that the quantizer was fitted to"),
    Rule(r"(token|recomputing|stepwise)_ms_\d+", "{}_ms_1", "{}, for as many tokens at once as the name says"),
)
# fmt: on


def by_scorers(metrics: Iterable[Metric], names: Sequence[str]) -> tuple[Metric, ...]:
    """Metrics with each that a scorer measures once per scorer; where two would share a title, their names are it."""
    measured = dict.fromkeys(m for metric in metrics for name in names if (m := metric.by(name)) is not None)
    titles = Counter(m.title for m in measured)
    return tuple(m if titles[m.title] == 1 else replace(m, title=m.name) for m in measured)


@cache
def every() -> Mapping[str, Metric]:
    """All metrics by key, by all scorers, the most telling first."""
    return {m.key: m for metric in METRICS for m in by_scorers((metric,), tuple(SCORERS))}


@cache
def find(key: str) -> Metric | None:
    """A metric by its key: declared, or one that goes with a declared one by a rule; None for any other."""
    if key in every():
        return every()[key]
    stage, _, name = key.partition("/")
    for rule in RULES:
        match = re.fullmatch(rule.pattern, name)
        of = match and find(f"{stage}/{rule.of.format(*match.groups())}")
        if of:
            unit, scale = (of.unit, of.scale) if rule.unit else ("", 1.0)
            meaning = rule.meaning.format(of.title)
            return Metric(key, name, "", of.decimals, unit, scale, meaning, fields=of.fields, scorer=of.scorer)
    like = every().get(_like(key))
    return like and replace(like, key=key, title=name, meaning="", needs="")


def metric(key: str) -> Metric:
    """A metric by its key; one that the catalogue lacks has its name alone."""
    return find(key) or Metric(key, key.partition("/")[2])


@cache
def depends(key: str, field: str) -> bool:
    """Whether a metric's number depends on a field of its stage's protocol: a protocol belongs to a metric.

    Args:
        key: of a metric; one that the catalogue lacks depends on every field.
        field: as the protocol has it, with a scorer's suffix before it where several score.
    """
    of, (scorer, name) = find(key), scorers.unqualified(field)
    if of is None:
        return True
    if scorer and scorer != of.scorer:
        return False
    return name in of.fields or name not in _owned()


def share_of(metric: Metric, protocol: Mapping[str, Any]) -> float | None:
    """The number of images that a metric is a share of; None where it is no share, or the protocol does not say."""
    if not metric.count:
        return None
    conditions = scorers.conditions_in(protocol, SCORERS[metric.scorer]) if metric.scorer else protocol
    return next((float(conditions[field]) for field in metric.count if conditions.get(field)), None)


def unqualified(field: str) -> str:
    """The name of a field of a protocol, without the suffix of the scorer that it is of."""
    return scorers.unqualified(field)[1]


@cache
def _owned() -> frozenset[str]:
    return frozenset(field for metric in METRICS for field in metric.fields)


def telling(keys: Iterable[str]) -> list[str]:
    """Those keys whose metrics say better or worse, the most telling first."""
    order = {key: number for number, key in enumerate(every())}
    said = [key for key in keys if metric(key).better]
    return sorted(said, key=lambda key: (order[key if key in order else _like(key)], key))


def _like(key: str) -> str:
    """The shipped classifier's metric of a network that is no scorer here: of score/fd_pixels, score/fd_digits."""
    return f"{key.rpartition('_')[0]}_{SCORERS[SHIPPED].suffix}"


def scorers_of(base: Mapping[str, Any]) -> tuple[str, ...]:
    """The scorers of a report's flat base settings, the first above all."""
    names = base.get("score.features", SHIPPED)
    return (names,) if isinstance(names, str) else tuple(names)


def cautions(distance: Metric, scorer: str, protocol: Mapping[str, Any]) -> list[str]:
    """What must be known of a Fréchet distance beside the protocol of its stage."""
    about, measured = scorers.conditions_in(protocol, SCORERS[scorer]), distance.by(scorer)
    if about.get("features") != scorer or measured is None:
        return []
    what = "images" if distance.stage == "reconstruct" else "samples"
    counts = {what: about["images"], "reference images": about["reference_images"]}
    unsaid = about["reference"] if about.get("reference_weights") else ""
    known = replace(SCORERS[scorer], width=about.get("features_width", SCORERS[scorer].width))
    return scorers.cautions(known, measured.title, about["features_weights"], counts, unsaid)
