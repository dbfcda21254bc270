"""Figures of what quantization costs: error against theory, and images against bits."""

from __future__ import annotations

from analysis.figures import charts
from analysis.figures.charts import Quantized, Rebuilt
from analysis.figures.form import Drawing
from analysis.figures.look import Z, table
from analysis.frame.source import Source
from analysis.frame.trials import AXES
from analysis.stats import PANTER_DITE
from experiments.paper import PSNR, RECONSTRUCTION_FD, TABLE_1A, TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS

KINDS = {"gaussian": "Gaussian (paper)", "uniform": "uniform", "quantile": "quantile", "lloyd-max": "Lloyd–Max"}


def quantized(source: Source) -> list[Quantized]:
    """Every post-training quantizer of the source; of those with a range, the base's unless range is an axis."""
    varies = any(axis.key == "quantizer.range" for axis in source.axes)
    found: dict[str, Quantized] = {}
    for cell in map(str, source.frame.index):
        kind, reach = source.setting(cell, "quantizer.kind"), source.setting(cell, "quantizer.range")
        error, id = source.number(cell, "quantizer/mse"), source.stage(cell, "quantizer")
        ranged = kind in ("gaussian", "uniform")
        if kind not in KINDS or not error or (ranged and not varies and reach != source.base["quantizer.range"]):
            continue
        series = KINDS[kind] + (f", ±{reach:g}" if ranged and varies else "")
        levels = source.setting(cell, "quantizer.levels")
        found.setdefault(id, Quantized(series, levels, error, source.number(cell, "quantizer/entropy_bits")))
    return sorted(found.values(), key=lambda each: (each.series, each.levels))


def distortion(source: Source) -> Drawing | None:
    """Mean squared error against levels and entropy, with the limits of theory."""
    points = quantized(source)
    if len({point.levels for point in points}) < 2:
        return None
    caption = (
        "Mean squared error of a quantized held-out latent value (standard deviation 1), on a logarithmic scale. Left:"
        " against the number of levels B; Panter–Dite is what the best quantizer of a normal distribution reaches with"
        " many levels, and a bit more divides it by four. Right: against the entropy H of the level, the bits that it"
        " takes after lossless coding; πe/6·2^(−2H) is what evenly spaced levels reach with such a code. Shannon: what"
        " no code with that many bits a value goes below for normal values. Latents are not quite normal, so points may"
        " lie under a line."
    )
    alt = "Quantization error against levels and against entropy, beside Panter–Dite, entropy-coded and Shannon limits"
    data = table(
        ["quantizer", "levels", "entropy, bits", "mean squared error", "Panter-Dite", "entropy-coded", "Shannon"],
        [(p.series, p.levels, p.entropy, p.mse, PANTER_DITE / p.levels**2, *_coded(p.entropy)) for p in points],
    )
    used = [table.id for table in source.tables if table.id in (TABLE_1A.id, AXES)]
    if not used:
        return None
    return Drawing(
        "distortion", "Quantization error against theory", caption, alt, charts.distortion(points), used[0], data
    )


def _coded(entropy: float | None) -> tuple[float | None, float | None]:
    """Entropy-coded and Shannon's limit at this entropy."""
    return (None, None) if entropy is None else (charts.ENTROPY_CODED * 4**-entropy, 4**-entropy)


def measures(source: Source) -> dict[str, str]:
    """What a reconstruction is measured by -> the name of its axis."""
    fd = source.by_scorer(RECONSTRUCTION_FD)
    return {fd.key: f"{fd.title} (lower is better)", PSNR.key: "PSNR, dB (higher is better)"}


def rebuilt(source: Source) -> list[Rebuilt]:
    """Tokenizers with reconstructed images: of table 1a, then the trained ones of table heads."""
    found: dict[str, Rebuilt] = {}
    for table_, trained in ((TABLE_1A, False), (TABLE_HEADS, True)):
        for cell, ids in source.rows(table_):
            id = source.stage(ids[0], "reconstruct") if ids else ""
            kind = source.setting(ids[0], "quantizer.kind") if ids else ""
            if not id or (kind in TRAINED_TOKENS) != trained:
                continue
            values = tuple(_value(source, ids[0], key) for key in measures(source))
            bits = source.number(ids[0], "reconstruct/effective_bits")
            if (bits is None and kind != "identity") or not any(values):
                continue
            series = f"{kind.upper()}, trained" if trained else "post-training levels" if bits else "continuous"
            found.setdefault(id, Rebuilt(series, "" if trained else cell.label, bits, values))
    return list(found.values())


def _value(source: Source, cell: str, key: str) -> tuple[float, float | None] | None:
    value = source.number(cell, key)
    return None if value is None else (value, source.number(cell, f"{key}_se"))


def quality(source: Source) -> Drawing | None:
    """Reconstructed images against bits: post-training levels, trained tokenizers, continuous latents."""
    points = rebuilt(source)
    shown = [i for i in range(len(measures(source))) if any(p.values[i] for p in points)]
    points = [Rebuilt(p.series, p.name, p.bits, tuple(p.values[i] for i in shown)) for p in points]
    if sum(point.bits is not None for point in points) < 2:
        return None
    names = [list(measures(source).values())[i] for i in shown]
    caption = (
        f"Reconstructed {source.measured_on} held-out images against the bits that an image takes: the entropies of its"
        " tokens' channels, summed. Bars and band: 95 % over images (1.96 standard errors); all tokenizers see the same"
        " images, so differences between them are surer than the bars suggest."
        f" {source.by_scorer(RECONSTRUCTION_FD).title} compares the images"
        " with the training set, so it does not reach zero even for originals. B: levels a channel."
    )
    if any(point.series.endswith(", trained") for point in points):
        caption += (
            " Trained: an autoencoder of the same body, trained with its quantizer; drawn a little apart where bits are"
            " nearly the same."
        )
    alt = "Fréchet distance and PSNR of reconstructed images against bits an image, by tokenizer"
    header = [
        "tokenizer",
        "name",
        "bits an image",
        *(f"{name}{more}" for name in names for more in ("", ", 95 % half")),
    ]
    rows = [(p.series, p.name, p.bits, *(part for value in p.values for part in _printed(value))) for p in points]
    return Drawing("quality-bits", "Reconstruction quality against bits", caption, alt, charts.quality(points, names),
                   TABLE_1A.id, table(header, rows))  # fmt: skip


def _printed(value: tuple[float, float | None] | None) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    return value[0], None if value[1] is None else Z * value[1]
