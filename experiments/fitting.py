"""The settings that fit a folder of images, each with its reason, as a file that every command takes.

Nothing is trained or measured for it: the reasons are sizes, and their reader may know better.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.presets import NONE, from_text, preset
from experiments.presets import SPLITS as REFERENCES
from tokenbridge.autoencoders.autoencoder_kl import Sizes, require_stride, sizes_of
from tokenbridge.autoencoders.sources import recognized, require_fit, source_of
from tokenbridge.config import LONGEST_TITLE, Autoencoder, RunConfig, UserError, holds_path
from tokenbridge.data.files import split_of, splits
from tokenbridge.data.folders import printable
from tokenbridge.data.survey import Survey
from tokenbridge.metrics.reference_files import FEWEST as FEWEST_SCORED
from tokenbridge.metrics.scorers import ENCODER, OWN, SHIPPED, misfit
from tokenbridge.overrides import build, override

PRESET = "small"
DIGITS = "digits"
"""the shipped autoencoder"""
USUAL, UNTRAINED, LARGEST = (32, 64, 128, 256), 64, 256
"""pixels per side that images of several sizes are cut to; at most with an autoencoder to be trained; at most at all"""
FEWEST = 8
"""images"""
SIDE = 8
"""latent positions per side, at most, of an autoencoder to be trained"""
STEPS, EPOCHS, BATCH, SAMPLES = 1000, (5, 300), 32, (50, 2000)
"""of a training; bounds of the epochs that give them; images per step, at most; bounds of images to sample"""
PLACED = ("data.source", "data.path", "autoencoder.source", "autoencoder.path")
"""settings that IMAGES and --autoencoder give"""
WIDTH = 118


class Setting(NamedTuple):
    """A line of the file: a dotted key, its value and why it is so."""

    key: str
    value: Any
    why: str = ""


class Place(NamedTuple):
    """Where the autoencoder is, or will be."""

    source: str
    path: Path | None
    there: bool

    @property
    def values(self) -> dict[str, Any]:
        return {"source": self.source, "path": str(self.path) if self.path else None}

    def settings(self) -> dict[str, Any]:
        """Of diffusers' AutoencoderKL. UserError for one that is not whole."""
        return source_of(build(Autoencoder, self.values)).settings()


def place_of(asked: str | None, default: Path) -> Place:
    """Where the autoencoder is.

    Args:
        asked: `digits`, a diffusers folder or an LDM checkpoint; None for one to be trained.
        default: the folder that it will then be in; one that is there already is taken.

    Raises:
        UserError: there is nothing of the kind where it was said.
    """
    if asked is None:
        return Place("diffusers", default, (default / "config.json").is_file())
    if asked == DIGITS:
        return Place(DIGITS, None, True)
    if name := recognized(Path(asked)):
        return Place(name, Path(asked), True)
    raise UserError(
        f"--autoencoder {asked} must be {DIGITS}, a diffusers folder or an LDM checkpoint, and is none; correct it, or"
        " leave it out to train one"
    )


def fitting(seen: Survey, place: Place, classifier: Path, given: Mapping[str, Any]) -> list[Setting]:
    """The settings that fit images and autoencoder; what the user gives stands in its place, and others follow it.

    Args:
        seen: the images.
        place: where the autoencoder is, or will be.
        classifier: where a classifier of the images would be trained.
        given: settings by dotted key.

    Raises:
        UserError: images or settings that do not go together.
    """
    if taken := [key for key in given if key in PLACED]:
        raise UserError(f"{taken[0]} is what IMAGES and --autoencoder say; leave it out")
    if seen.images < FEWEST:
        raise UserError(f"{seen.what} holds {seen.images} images and must hold at least {FEWEST}; add some")
    for key in ("data.image_size", "autoencoder.channels", "autoencoder.stride"):
        if type(given.get(key, 1)) is not int or given.get(key, 1) < 1:
            override(preset(PRESET), {key: given[key]})  # which refuses it
    sizes = sizes_of(place.settings()) if place.there else _to_train(seen, given)
    settings = [*_data(seen, sizes, place), *_autoencoder(sizes, place)]
    few = {"sample.iterations": 1, "train.warmup_epochs": 0}  # that go with all others
    config = override(preset(PRESET), few | _values(settings) | dict(given))
    if place.there:
        require_fit(config, place.settings())
    else:
        require_stride(config.autoencoder.stride, config.data.image_size, "autoencoder.stride=")
    settings += [*_training(config, given), *_sampling(config), *_scoring(config, classifier, given)]
    known = {setting.key for setting in settings}
    settings = [s._replace(value=given[s.key], why="as given") if s.key in given else s for s in settings]
    settings += [Setting(key, value, "as given") for key, value in given.items() if key not in known]
    override(preset(PRESET), _values(settings)).require_pair()
    return settings


def _values(settings: Sequence[Setting]) -> dict[str, Any]:
    return {setting.key: setting.value for setting in settings}


def _to_train(seen: Survey, given: Mapping[str, Any]) -> Sizes:
    """Sizes of a small autoencoder for these images: few positions, so that minutes on a processor are enough."""
    size = given.get("data.image_size", _wanted(seen, UNTRAINED))
    stride = 2 if size < 16 else next((stride for stride in (4, 8, 16) if size <= stride * SIDE), 32)
    stride = given.get("autoencoder.stride", stride)
    return Sizes(given.get("autoencoder.channels", 8 if stride <= 4 else 16), stride, 1 if seen.grey else 3)


def _wanted(seen: Survey, most: int) -> int:
    """Pixels per side before they are made a multiple of the stride: the images' own, else a usual size."""
    if len(seen.shapes) == 1:
        return min(seen.smallest, LARGEST)
    return max((size for size in USUAL if size <= min(seen.smallest, most)), default=seen.smallest)


def _data(seen: Survey, sizes: Sizes, place: Place) -> Iterator[Setting]:
    path, title = seen.data.path, seen.data.name
    if path is not None:
        title = printable(Path(path).resolve().name)[:LONGEST_TITLE] or PRESET
    yield Setting("data.name", title if title and title.isprintable() else PRESET, "what reports call the images")
    yield Setting("data.source", seen.data.source)
    yield Setting("data.path", path)  # none, where the set says where it is
    yield Setting("data.classes", seen.classes)
    if seen.data.class_order != "text":
        yield Setting("data.class_order", seen.data.class_order, "their names are numbers")
    wanted = _wanted(seen, LARGEST if place.there else UNTRAINED)
    size = max(-(-4 // sizes.stride), int(wanted / sizes.stride + 0.5)) * sizes.stride
    why = "the shorter side is scaled to this, and the middle kept (ADM's crop)"
    if len(seen.shapes) > 1:
        why += "; twice as many take four times as long"
    elif set(next(iter(seen.shapes))) == {size}:
        why = "as the images are"
    if size != wanted:
        why += f"; of the multiples of the stride {sizes.stride}, the nearest to {wanted}"
    yield Setting("data.image_size", size, why)
    yield Setting("data.image_channels", sizes.image_channels, f"of the {'autoencoder' if place.there else 'images'}")


def _autoencoder(sizes: Sizes, place: Place) -> Iterator[Setting]:
    for name, value in place.values.items():
        yield Setting(f"autoencoder.{name}", value)
    more = "latent channels: more reconstruct better, and are harder to model"
    few = f"pixels per latent position: at most {SIDE} positions per side"
    yield Setting("autoencoder.channels", sizes.channels, "its own" if place.there else more)
    yield Setting("autoencoder.stride", sizes.stride, "its own" if place.there else few)


def _training(config: RunConfig, given: Mapping[str, Any]) -> Iterator[Setting]:
    counts = {split: len(split_of(config.data, split)[1]) for split in splits(config.data)}
    count = counts["train"]
    if (few := given.get("sample.images", FEWEST_SCORED)) < FEWEST_SCORED:
        raise UserError(f"sample.images={few} must be {FEWEST_SCORED} at least to be scored; take more")
    if counts["test"] < FEWEST_SCORED:
        raise UserError(
            f"{config.data.path}: {counts['test']} images would be for the test, and {FEWEST_SCORED} at least can be"
            " measured; add images, or give a larger data.test_fraction"
        )
    if (asked := given.get("train.batch", 1)) > count:
        raise UserError(f"train.batch={asked} must be at most {count}, the images to train")
    batch = min(given.get("train.batch", BATCH), 1 << (count.bit_length() - 1))
    epochs = given.get("train.epochs", min(max(-(-STEPS // (count // batch)), EPOCHS[0]), EPOCHS[1]))
    told = ", ".join(f"{number:,} {split}" for split, number in counts.items())
    yield Setting("train.batch", batch, f"images per step, at most those to train; images: {told}")
    steps = f"{epochs * (count // batch):,} steps; longer is better, and a run begins with how long it takes"
    yield Setting("train.epochs", epochs, steps)
    yield Setting("train.warmup_epochs", epochs / 10 if epochs % 10 else epochs // 10, "a tenth of them")


def _sampling(config: RunConfig) -> Iterator[Setting]:
    count, side = len(split_of(config.data, "train")[1]), config.grid_size
    images = max(min(max(count, SAMPLES[0]), SAMPLES[1]), 2 * config.data.classes)
    yield Setting("sample.images", images, "distances depend on their number: compare equal ones only")
    if config.data.classes == 1:
        yield Setting("sample.guidance", 1.0, "off: with one class there is nothing to guide to")
    iterations = min(config.positions, max(8, config.positions // 4))
    yield Setting("sample.iterations", iterations, f"at most the {config.positions} positions ({side} × {side})")


def _scoring(config: RunConfig, classifier: Path, given: Mapping[str, Any]) -> Iterator[Setting]:
    features = given.get("score.features")
    if features == OWN:
        yield Setting("score.weights", str(classifier), "the classifier that train-classifier makes of these images")
    elif features not in (None, ENCODER):  # whose weights are given, or downloaded
        return
    elif config.autoencoder.path is not None:
        yield Setting("score.features", ENCODER, "fd_autoencoder: Fréchet distance by what its encoder sees")
        yield Setting("score.weights", config.autoencoder.path)
    elif misfit(config.score, SHIPPED, config.data):
        yield Setting("score.features", OWN, "fd_own, by the classifier that train-classifier makes of these images")
        yield Setting("score.weights", str(classifier))


def text_of(seen: Survey, name: str, settings: Sequence[Setting], out: Path, notes: Mapping[str, Sequence[str]]) -> str:
    """The file's text.

    Args:
        seen: the images.
        name: of the runs.
        settings: as `fitting` gives them.
        out: the file; paths below its folder are written as relative to it.
        notes: by section, what stands above its settings beside what is known of the images.

    Raises:
        UserError: what the text would be read as is refused.
    """
    lines = [
        *_comment(f"Settings for {printable(seen.what)}, written by `tokenbridge init`."),
        "# What is not here is as in the preset; `tokenbridge settings` lists all. Paths are relative to this file.",
        f"# Words behind a command change some for once: tokenbridge run {printable(out.name)} sample.temperature=0.9",
        f"preset = {toml_value(PRESET)}",
        f"name = {toml_value(name)}  # what runs are called",
    ]
    above = {"data": seen.lines(), **notes}
    for section in RunConfig.model_fields:
        inside = [setting for setting in settings if setting.key.startswith(f"{section}.")]
        if inside:
            lines += ["", f"[{section}]", *(line for note in above.get(section, ()) for line in _comment(note))]
            lines += [line for setting in inside for line in _lines(setting, out)]
    text = "\n".join(lines) + "\n"
    from_text(text, out)
    return text


def unscored(command: str, weights: str) -> tuple[str, str]:
    """What stands above [score] of images with classes until there is a classifier of them.

    Args:
        command: that trains it.
        weights: the folder that it will be in, as the file has it.
    """
    return f"{command} trains a classifier of them and changes this to:", f'features = "own", weights = "{weights}"'


def scored(text: str) -> str | None:
    """The text of a file that `init` wrote, with [score] by the classifier that its comment names.

    None where the file has another [score].
    """
    own = 'features = "own"  # fd_own and class agreement, by the classifier of these images'
    new, count = _UNSCORED.subn(rf"[score]\n{own}\nweights = \1\n# without it: \2, \3", text)
    return new if count == 1 else None


_UNSCORED = re.compile(
    r'^\[score\]\n# [^\n]* changes this to:\n# features = "own", weights = ("[^"\n]*")\n'
    r'(features = "autoencoder")[^\n]*\n(weights = "[^"\n]*")$',
    re.MULTILINE,
)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _lines(setting: Setting, out: Path) -> list[str]:
    """A setting with its reason behind it, or above where both are too long for a line."""
    section, _, name = setting.key.partition(".")
    path = isinstance(setting.value, str) and holds_path(section, name) and setting.value not in REFERENCES
    text = f"{name} = {toml_value(_relative(setting.value, out) if path else setting.value)}"
    together = f"{text}  # {setting.why}" if setting.why else text
    return [together] if len(together) <= WIDTH else [*_comment(setting.why), text]


def _relative(path: str, out: Path) -> str:
    """A path below the file's folder as relative to it, so that both may move; another as absolute."""
    if Path(path).is_absolute():
        return path
    absolute, folder = Path(path).absolute(), out.parent.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute.resolve())


def toml_value(value: Any) -> str:
    """A setting's value as a file of settings has it."""
    if value is None:
        return toml_value(NONE)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(list(value) if isinstance(value, tuple) else value)
