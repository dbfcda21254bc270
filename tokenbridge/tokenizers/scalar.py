"""Post-training quantizers: each channel of a frozen autoencoder's latents by itself, no training (arXiv 2503.16430).

Dimension letters: N any number of latents, C channel, V level, K = 1 (levels shared by all channels) or C.
Latents have unit standard deviation. Every quantizer is a sorted set of reconstruction values; the index of a value is
its nearest one (equation 4), found by the midpoint in the value's cell of a fine grid: O(1), where a distance table
costs V times the memory.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from tokenbridge.config import Quantizer, UserError
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers.levels import reconstruction_values


class MidpointLookup(nn.Module):
    """Counts midpoints below a value by one look-up and one comparison.

    No cell holds two midpoints. A value's cell never decreases with the value, in floating point as well, so midpoints
    of lower cells lie below it, those of higher cells above, and the one in its own cell is compared.
    """

    low: Tensor
    per_unit: Tensor
    below: Tensor
    threshold: Tensor

    def __init__(self, midpoints: Tensor, cells: int):
        super().__init__()
        self.cells = cells
        self.register_buffer("low", midpoints[:, 0], persistent=False)
        span = midpoints[:, -1] - self.low
        self.register_buffer("per_unit", torch.where(span > 0, (cells - 1) / span, 0), persistent=False)
        occupied = self.cell(midpoints.T).T.contiguous()  # (K, V - 1)
        every = torch.arange(cells).expand(len(midpoints), -1).contiguous()
        below = torch.searchsorted(occupied, every)
        nearest = below.clamp(max=midpoints.shape[1] - 1)
        threshold = torch.where(occupied.gather(1, nearest) == every, midpoints.gather(1, nearest), torch.inf)
        self.register_buffer("below", below.flatten(), persistent=False)
        self.register_buffer("threshold", threshold.flatten(), persistent=False)
        self.separates = bool((occupied.diff(dim=1) > 0).all())

    @classmethod
    def over(cls, midpoints: Tensor) -> MidpointLookup | None:
        """The coarsest grid of 2^n cells that separates midpoints (K, V - 1); None if that needs too many."""
        for bits in range(6, 21):
            grid = cls(midpoints, 2**bits)
            if grid.separates:
                return grid
        return None

    def cell(self, x: Tensor) -> Tensor:
        """(M, K) float32 -> (M, K) int64 in [0, cells)."""
        return ((x - self.low) * self.per_unit).clamp_(0, self.cells - 1).to(torch.int64)

    def count_below(self, x: Tensor) -> Tensor:
        """(M, K) float32 -> (M, K) int64, the number of midpoints of its column below each value."""
        counts = torch.empty(x.shape, dtype=torch.int64, device=x.device)
        first = torch.arange(x.shape[1], device=x.device) * self.cells
        # pieces that stay in a core's cache: five times as fast as all at once on a CPU
        step = max(1, 65_536 // x.shape[1]) if x.device.type == "cpu" else max(1, len(x))
        for part, result in zip(x.split(step), counts.split(step), strict=True):
            cell = self.cell(part).add_(first)
            torch.add(self.below[cell], part > self.threshold[cell], out=result)
        return counts


class ScalarQuantizer(Tokenizer):
    """Nearest-value quantizer, each latent channel by itself: C = E, V levels each; decode gives the nearest value."""

    centers: Tensor
    midpoints: Tensor
    grid: MidpointLookup | None

    def __init__(self, centers: Tensor, extremes: Tensor):
        """centers (K, V) float32, increasing along V; extremes (2, C)."""
        super().__init__(extremes)
        assert bool((centers.diff(dim=1) > 0).all()), "reconstruction values must increase"
        self.register_buffer("centers", centers)
        self.register_buffer("midpoints", (centers[:, 1:] + centers[:, :-1]) / 2, persistent=False)
        self.grid = MidpointLookup.over(self.midpoints)

    @property
    def levels(self) -> tuple[int, ...]:
        return (self.centers.shape[1],) * self.channels

    def encode(self, x: Tensor) -> Tensor:
        """Nearest levels of x, which must be finite."""
        rows = x.float().reshape(-1, 1 if len(self.centers) == 1 else self.channels)
        if self.grid is not None:
            return self.grid.count_below(rows).reshape(x.shape)
        return torch.searchsorted(self.midpoints, rows.T.contiguous()).T.reshape(x.shape)

    def decode(self, tokens: Tensor) -> Tensor:
        if len(self.centers) == 1:
            return self.centers[0][tokens]
        return self.centers[torch.arange(self.channels, device=tokens.device), tokens]

    def log_volume(self, tokens: Tensor) -> Tensor:
        return self.bin_widths()[torch.arange(self.channels, device=tokens.device), tokens].log().sum(-1)

    def bin_widths(self) -> Tensor:
        """(C, V) float32: width of each bin in latent units, the outer bins ending at the calibration extremes.

        A bin outside the extremes has width 0: no calibration value falls there.
        """
        low, high = self.extremes[0][:, None, None], self.extremes[1][:, None, None]
        return torch.minimum(torch.maximum(self.bin_ends(), low), high).diff(dim=2)[..., 0]

    def bin_ends(self) -> Tensor:
        """(C, V, 2) float32: both ends of each bin, minus infinity and infinity those of the outer bins."""
        inner, open_end = (
            self.midpoints.expand(self.channels, -1),
            self.midpoints.new_full((self.channels, 1), torch.inf),
        )
        return torch.stack([torch.cat([-open_end, inner], 1), torch.cat([inner, open_end], 1)], 2)

    def ends_of(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper ends (..., C) of the bins of tokens (..., C), infinite where a bin is open."""
        ends = self.bin_ends()[torch.arange(self.channels, device=tokens.device), tokens]
        return ends[..., 0], ends[..., 1]


class IdentityQuantizer(Tokenizer):
    """Continuous tokens: encode and decode return what they are given."""

    dtype = torch.float32

    @property
    def levels(self) -> tuple[int, ...]:
        return ()

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, tokens: Tensor) -> Tensor:
        return tokens

    def log_volume(self, tokens: Tensor) -> Tensor:
        """(...) zeros: a head of continuous tokens gives a density itself."""
        return torch.zeros(tokens.shape[:-1], device=tokens.device)


def fit(config: Quantizer, latents: Tensor) -> Tokenizer:
    """A quantizer for latents of unit deviation.

    Gaussian and uniform levels per tensor use no data (the paper); per channel they follow each channel's mean and
    deviation. Quantile and lloyd-max levels are fitted to the data.

    Args:
        config: a post-training kind, or identity.
        latents: (N, C) float32, a row per position.

    Raises:
        UserError: another shape, NaN or infinite values, or more levels than distinct values.
    """
    if latents.ndim != 2 or not latents.numel():
        raise UserError(
            f"latents of shape {tuple(latents.shape)} must be (N, C), a row per position; of images (B, C, h, w), give"
            " latents.permute(0, 2, 3, 1).flatten(0, 2)"
        )
    if not bool(torch.isfinite(latents).all()):
        bad = int((~torch.isfinite(latents)).sum())
        raise UserError(
            f"latents hold {bad} values that are NaN or infinite; they must be finite:"
            " check the images and the autoencoder"
        )
    extremes = torch.stack([latents.amin(0), latents.amax(0)])
    if config.kind == "identity":
        return IdentityQuantizer(extremes)
    equal = (extremes[0] == extremes[1]).nonzero().flatten().tolist()
    if equal and config.per == "channel":
        raise UserError(
            f"quantizer.per=channel needs channels that differ between images, and channel {equal[0]} of the latents is"
            " one value; take quantizer.per=tensor"
        )
    data = latents.double().numpy()
    groups = [data.ravel()] if config.per == "tensor" else list(data.T)
    centers = np.stack([reconstruction_values(config, group, config.per == "channel") for group in groups])
    values = torch.from_numpy(centers).float()
    if not bool((values.diff(dim=1) > 0).all() & values.isfinite().all()):
        raise UserError(
            f"quantizer.levels={config.levels} at quantizer.range={config.range:g} and quantizer.std_range="
            f"{config.std_range:g} lie closer than float32 tells apart, or beyond it; take fewer levels, or the"
            " paper's ranges (5 and 3)"
        )
    return ScalarQuantizer(values, extremes)


def range_of(config: Quantizer, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Lower and upper end (1 or C,) of the range of fixed levels; None of kinds whose levels are fitted.

    Args:
        config: the kind, its range, and whether that is of each channel's mean and deviation.
        latents: (N, C) float32 that the levels are fitted to.
    """
    if config.kind not in ("gaussian", "uniform"):
        return None
    if config.per == "tensor":
        return torch.tensor([-config.range]), torch.tensor([config.range])
    deviation, mean = torch.std_mean(latents.double(), 0, correction=0)
    return mean - config.range * deviation, mean + config.range * deviation


def diagnostics(quantizer: Tokenizer, latents: Tensor, limits: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
    """Costs of quantizing latents (N, E), with the theoretical limits for normal latents of the same variance.

    mse, snr_db; token_bits: log₂ of the number of different tokens; entropy_bits: of the indices, mean over channels;
    clipped: share of values beyond the limits (low and high, 1 or C values each), or beyond the calibration extremes
    where there are none; unused_levels: mean number per channel.
    Post-training quantizers: limits of the mse: panter_dite (π√3/2·V⁻², any V-level quantizer at high rate),
    entropy_coded (πe/6·2^(−2H)), shannon (2^(−2H)). Trained ones: code_usage.
    """
    tokens = quantizer.encode(latents)
    error = float((quantizer.decode(tokens) - latents).double().square().mean())
    variance = float(latents.double().var(correction=0))
    low, high = quantizer.extremes if limits is None else limits
    report = {"mse": error, "clipped": float(((latents < low) | (latents > high)).double().mean())}
    if not quantizer.levels:
        return report
    counts = [torch.bincount(tokens[:, c], minlength=levels) for c, levels in enumerate(quantizer.levels)]
    entropy = sum(entropy_bits(channel) for channel in counts) / len(counts)
    report |= {
        "snr_db": 10 * math.log10(variance / error),
        "token_bits": math.log2(math.prod(quantizer.levels)),
        "entropy_bits": entropy,
        "unused_levels": sum(int((channel == 0).sum()) for channel in counts) / len(counts),
    }
    if not isinstance(quantizer, ScalarQuantizer):
        return report | code_usage(tokens, quantizer.levels)
    return report | {
        "limit_panter_dite": math.pi * math.sqrt(3) / 2 / quantizer.levels[0] ** 2 * variance,
        "limit_entropy_coded": math.pi * math.e / 6 * 2 ** (-2 * entropy) * variance,
        "limit_shannon": 2 ** (-2 * entropy) * variance,
    }


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of the distribution with these counts (V,)."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum()) / math.log(2)


def code_usage(tokens: Tensor, levels: tuple[int, ...]) -> dict[str, float]:
    """How many codes tokens use, where a code is a whole token.

    Args:
        tokens: (N, C) int64.
        levels: number of levels of each channel; their product is the number of codes.

    Returns:
        used_codes, the share of all codes that occur, and perplexity, 2 to the power of their entropy in bits.
    """
    counts = torch.unique(tokens, dim=0, return_counts=True)[1]
    return {"used_codes": len(counts) / math.prod(levels), "perplexity": 2 ** entropy_bits(counts)}
