"""Figures of latents, channel by channel: values, levels in use, spectra."""

from __future__ import annotations

from analysis.figures import latent_charts
from analysis.figures.form import Drawing, stages
from analysis.figures.look import table
from analysis.frame.source import Source
from analysis.stats import number
from experiments.paper import TABLE_1A, TABLE_2B


def latents(source: Source) -> Drawing | None:
    """Figure 3: each channel's values before and after quantization."""
    found = stages(source, TABLE_1A, "quantizer")
    levels = {label: id for label, id in found.items() if source.example(id)["centers"].size}
    if not levels:
        return None
    label = "B=16" if "B=16" in levels else next(iter(levels))
    example = source.example(levels[label])
    count = example["centers"].shape[-1]
    caption = (
        f"Figure 3 of the paper, on {source.measured_on}. Latent values of each channel before quantization (area) and"
        f" after it (stems), at {count} levels. A stem stands at a level; its height is the share of values that the"
        " level stands for, over the width of its interval. Where stems end at the outline of the area, quantization"
        " keeps the distribution. Dashed: the standard normal distribution, for comparison."
    )
    alt = f"Histograms of latent values, one panel a channel, before and after quantization to {count} levels"
    edges = example["edges"]
    bins = [
        (channel, float(edges[i]), float(edges[i + 1]), int(before[i]), int(after[i]))
        for channel, (before, after) in enumerate(zip(example["before"], example["after"], strict=True))
        for i in range(len(edges) - 1)
    ]
    data = table(["channel", "from", "to", "values before", "values after"], bins)
    return Drawing("figure-3-latents", "Latent values before and after quantization", caption, alt,
                   latent_charts.latent_histograms(example), "1a", data)  # fmt: skip


def levels_used(source: Source) -> Drawing | None:
    """How often each level of each channel occurs, at the most levels that the source knows it for."""
    examples = [source.example(id) for id in stages(source, TABLE_1A, "quantizer").values()]
    counted = [example["counts"] for example in examples if "counts" in example]
    if not counted:
        return None
    counts = max(counted, key=lambda each: each.shape[1])
    levels, total = counts.shape[1], int(counts[0].sum())
    caption = (
        f"How often each of {levels} levels occurs among {number(total, 0)} held-out values of a channel, as a"
        " multiple of an even share: 1 where all levels occur equally often. Crosses: levels that never occur. The"
        " range of the levels is the same for all channels, so a channel of small deviation leaves the outer levels to"
        " the others."
    )
    alt = f"Use of each of {levels} levels in each channel, with the number of levels in use"
    rows = [
        (c, level, int(n), float(levels * n / total)) for c, row in enumerate(counts) for level, n in enumerate(row)
    ]
    data = table(["channel", "level", "values", "times an even share"], rows)
    return Drawing("levels-used", "Levels in use", caption, alt, latent_charts.levels_used(counts), "1a", data)


def spectra(source: Source) -> Drawing | None:
    """Power of each channel by frequency, and the order of prediction that follows (section 3.3)."""
    found = [id for id in stages(source, TABLE_2B, "latents").values() if source.has_example(id)]
    if not found:
        return None
    example = source.example(found[0])
    order, share = example["order"], example["share"]
    caption = (
        f"Section 3.3 of the paper, on {source.measured_on}. Left: mean power of each channel's maps at each radial"
        " frequency that they have, in latents of unit deviation; a flat line is noise. Right: the share of a channel's"
        f" power at no more than {float(example['cutoff']):g} cycles a position (dashed), half of the highest frequency"
        " along an axis. The order “frequency” predicts the channel with the largest share first:"
        f" {' '.join(str(channel) for channel in order)}. Shades follow this order in both panels."
    )
    alt = "Spectra of the latent channels beside the share of each at low frequencies, in the order of prediction"
    places = {int(channel): place for place, channel in enumerate(order)}
    rows = [
        (channel, places[channel], float(share[channel]), float(frequency), float(power))
        for channel in range(len(order))
        for frequency, power in zip(example["frequencies"], example["power"][channel], strict=True)
    ]
    data = table(["channel", "place in order", "low-frequency share", "frequency", "power"], rows)
    title = "Spectra of the channels and their order"
    return Drawing("spectra", title, caption, alt, latent_charts.spectra(example), "2b", data)
