"""Where a run's autoencoder comes from: the shipped one, a diffusers folder, a checkpoint of LDM, or its own training.

A source is a class; SOURCES is the one list of them, and all else follows from it: what autoencoder.source may be, ids,
planning, loading. Planning asks settings and fingerprint, so this file imports torch only where weights are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from safetensors import SafetensorError, safe_open

from tokenbridge import ASSETS
from tokenbridge.autoencoders.autoencoder_kl import CLASSES, KL, Sizes, autoencoder_class, class_of, sizes_of
from tokenbridge.config import Autoencoder, RunConfig, UserError
from tokenbridge.store.artifacts import file_hash, read_json

if TYPE_CHECKING:
    import torch

    from tokenbridge.autoencoders.frozen import FrozenAutoencoder


class Source:
    """A kind of pretrained autoencoder; a subclass declares its name in autoencoder.source and the three methods."""

    name: ClassVar[str]
    takes_path: ClassVar[bool] = True
    """whether autoencoder.path says where the weights are"""
    published: ClassVar[Mapping[str, Any]] = {}
    """settings of a well-known autoencoder of this source, for planning where its file is not here"""

    def __init__(self, config: Autoencoder):
        self.config = config

    def __str__(self) -> str:
        return str(self.config.path)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """True where a path looks like weights of this source, for commands that take a path alone."""
        return False

    def settings(self) -> dict[str, Any]:
        """Settings of a diffusers class, AutoencoderKL where there is no `_class_name`: architecture and units."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 of the weights, hex: what ids and protocols know of them."""
        raise NotImplementedError

    def load(self) -> FrozenAutoencoder:
        """The autoencoder in float32 on the CPU; UserError for files that are missing or damaged."""
        raise NotImplementedError

    def require_sizes(self, sizes: Sizes) -> None:
        """Raise UserError unless channels and stride of the config are those of the weights."""
        for name in ("channels", "stride"):
            ours, theirs = getattr(self.config, name), getattr(sizes, name)
            if ours != theirs:
                raise UserError(
                    f"autoencoder.{name}={ours} must be {theirs}, that of {self}; correct autoencoder.{name}"
                )


class Digits(Source):
    """The KL autoencoder of the digits that the package ships."""

    name = "digits"
    takes_path = False
    weights = ASSETS / "digits_autoencoder.safetensors"

    def __init__(self, config: Autoencoder | None = None, weights: Path = weights):
        """weights: another file that train_autoencoder wrote."""
        super().__init__(config or Autoencoder())
        self.weights = weights

    def __str__(self) -> str:
        return "the shipped digits autoencoder"

    def settings(self) -> dict[str, Any]:
        return {
            "in_channels": 1,
            "out_channels": 1,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (32, 48, 64),
            "layers_per_block": 1,
            "latent_channels": 8,
            "norm_num_groups": 8,
            "sample_size": 16,
            "mid_block_add_attention": False,  # 16 positions: the convolutions see all of them
        }

    def fingerprint(self) -> str:
        return file_hash(self.weights)

    def load(self) -> FrozenAutoencoder:
        from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
        from tokenbridge.weights import fill, read_half

        return FrozenAutoencoder(fill(build(self.settings()), read_half(self.weights), self.weights))


class Trained(Digits):
    """An autoencoder like that of the digits, which the stage `autoencoder` of the run trains."""

    name = "trained"

    def __str__(self) -> str:
        return "the autoencoder that is trained"

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"latent_channels": self.config.channels}

    def fingerprint(self) -> str:
        raise NotImplementedError  # ids hold the stage that trains it

    def load(self) -> FrozenAutoencoder:
        raise UserError("autoencoder.source=trained has no weights beside a run; take another source")

    def read(self, path: Path) -> FrozenAutoencoder:
        """The autoencoder from the weights that the stage left."""
        from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
        from tokenbridge.weights import RUN_AGAIN, fill, read

        return FrozenAutoencoder(fill(build(self.settings()), read(path), path, RUN_AGAIN))


FASHION = ASSETS / "fashion-autoencoder"
"""a diffusers folder with its card"""
BODY_WEIGHTS = "autoencoder.safetensors"
"""of the stage that trains one"""


class Diffusers(Source):
    """A folder that save_pretrained of one of diffusers' autoencoders (CLASSES) wrote."""

    name = "diffusers"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return path.is_dir()

    def settings(self) -> dict[str, Any]:
        path = self._folder() / CONFIG
        settings = read_json(path, "save the model again")
        if not isinstance(settings, dict):
            raise UserError(f"{path} must be a JSON object, as save_pretrained writes it; save the model again")
        if settings.get("_class_name") not in CLASSES:
            raise UserError(
                f"{path} is of class {settings.get('_class_name')} and must be of one of {', '.join(CLASSES)}; save one"
                " there"
            )
        _require_sizes(settings, path)
        return settings

    def fingerprint(self) -> str:
        """SHA-256 of the config and of each weights file with its name; UserError where weights are not whole."""
        folder = self._folder()
        _variant(folder)
        files = [folder / CONFIG, *sorted(folder.glob("*.safetensors"))]
        return hashlib.sha256("".join(f"{path.name}\0{file_hash(path)}\n" for path in files).encode()).hexdigest()

    def load(self) -> FrozenAutoencoder:
        from tokenbridge.autoencoders.frozen import FrozenAutoencoder

        folder, settings = self._folder(), self.settings()
        options = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
        options |= {"variant": _variant(folder)}
        kind = autoencoder_class(class_of(settings))
        try:
            model, report = kind.from_pretrained(str(folder), output_loading_info=True, **options)
        except Exception as error:  # diffusers and safetensors raise many kinds for a broken file
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{folder} cannot be read as an {class_of(settings)} ({reason}); save it again") from error
        wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[kind]]
        if wrong:
            raise UserError(
                f"{folder} must hold the weights of its config.json, and {wrong[0]} does not match; save it again"
            )
        model = model.float().eval().requires_grad_(False)
        return FrozenAutoencoder(model, settings.get("scaling_factor"), settings.get("shift_factor"))

    def _folder(self) -> Path:
        """The folder, if a config is in it."""
        if self.config.path is None:
            raise UserError("autoencoder.path=None must name a folder where autoencoder.source=diffusers; give it")
        folder = Path(self.config.path)
        if (folder / "config.json").is_file():
            return folder
        if (folder / "vae" / "config.json").is_file():
            raise UserError(
                f"autoencoder.path={folder} is the folder of a pipeline and must be that of its autoencoder; give"
                f" autoencoder.path={folder / 'vae'}"
            )
        raise UserError(
            f"autoencoder.path={folder} must hold config.json and {WEIGHTS}.safetensors (save_pretrained writes"
            " them); correct the path"
        )


CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model"
"""diffusers' names of the files"""
CARD = "card.json"
"""beside them, what `train-autoencoder` says of an autoencoder that it made"""
VARIANTS = (None, "fp16", "bf16")
"""of the same weights; the first that is there is read"""


def _variant(folder: Path) -> str | None:
    """The variant of a diffusers folder's weights that is read. UserError where none is there and whole."""
    for variant in VARIANTS:
        ending = f".{variant}" if variant else ""
        index, single = folder / f"{WEIGHTS}.safetensors.index{ending}.json", f"{WEIGHTS}{ending}.safetensors"
        if index.is_file():
            _require_shards(index)
        elif (folder / single).is_file():
            _require_tensors(folder / single)
        else:
            continue
        return variant
    raise UserError(
        f"autoencoder.path={folder} must hold {WEIGHTS}.safetensors, or its variant fp16 or bf16"
        " (save_pretrained writes it); correct the path, or save the model there"
    )


def _require_shards(index: Path) -> None:
    content = read_json(index, "download it again")
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} must say in weight_map which file each weight is in; download it again")
    for name in sorted(set(shards.values())):
        path = index.parent / name
        if not path.is_file():
            raise UserError(f"{path} is missing, a part of the weights that {index.name} names; download it")
        _require_tensors(path, [weight for weight, file in shards.items() if file == name])


def _require_tensors(path: Path, names: Sequence[str] = ()) -> None:
    """Raise UserError unless a safetensors file is whole and holds these tensors."""
    try:
        with safe_open(path, framework="numpy") as file:
            missing = sorted(set(names) - set(file.keys()))
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} must be a whole safetensors file ({error}); download it again") from error
    if missing:
        raise UserError(f"{path} must hold {missing[0]}, as its index says; download it again")
    if whole := [f"{name} is {kind}" for name, kind in kinds.items() if not kind.startswith(("F", "BF"))]:
        raise UserError(f"{path} must hold floating-point weights, and {whole[0]}; save the model again")


def _require_sizes(settings: Mapping[str, Any], path: Path) -> None:
    """Raise UserError unless the sizes in a diffusers config are such: what sizes_of reads."""
    kind = CLASSES[class_of(settings)]
    sizes = {name: settings.get(name, default) for name, default in kind.numbers.items()}
    sizes = {name: value for name, value in sizes.items() if value is not None or kind.numbers[name]}
    lists = {name: settings[name] for name in kind.lists if name in settings}
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: {name}={values!r} must be a list of numbers; save the model again")
    for name, value in [*sizes.items(), *((name, value) for name, values in lists.items() for value in values)]:
        if type(value) is not int or value < min(1, kind.numbers.get(name, 1)):
            raise UserError(f"{path}: {name}={value!r} must be a whole number from 1; save the model again")
    lengths = {**kind.lists} | {name: len(values) for name, values in lists.items()}
    counts = sizes | {name: f"{length} items" for name, length in lengths.items()}
    for first, second in kind.alike:
        if counts[first] != counts[second]:
            raise UserError(
                f"{path}: {second}={counts[second]} must be {first}={counts[first]}, for images come back as they went"
                " in; take another model"
            )
    if sizes.get("upsampling_scaling_factor", 2) != 2:
        raise UserError(
            f"{path}: upsampling_scaling_factor={sizes['upsampling_scaling_factor']} must be 2, by which the encoder"
            " halves; take another model"
        )
    if settings.get("reshape_to_2d", True) is not True:
        raise UserError(f"{path}: reshape_to_2d must be true, for latents lie on a grid; save the model again")


class Units(NamedTuple):
    """The units that a diffusers config gives its latents: (latent − shift) / spread · scale."""

    scale: float
    shift: float | tuple[float, ...]
    """for all channels or each"""
    spread: float | tuple[float, ...]


def units_of(settings: Mapping[str, Any], source: Source) -> Units:
    """The units that an autoencoder's settings give, for latents.scale=autoencoder.

    scaling_factor and shift_factor, or scaling_factor with latents_mean and latents_std (a number each channel), as
    diffusers' pipelines apply them. Raises UserError for none, for numbers that cannot be, and for both.
    """
    scale, shift = settings.get("scaling_factor"), settings.get("shift_factor")
    if class_of(settings) == "AutoencoderRAE":  # its encoder gives latents in its own units
        return Units(1.0, 0.0, 1.0)
    if scale is None:
        raise UserError(
            f"latents.scale=autoencoder needs a scaling_factor in the config of {source}, which has none; take"
            " latents.scale=auto or give the number"
        )

    def number(name: str, value: Any, above: float = -math.inf) -> float:
        if type(value) not in (int, float) or not above < value < math.inf:
            rule = "a finite number > 0" if above == 0 else "a finite number"
            raise UserError(f"{name}={value!r} in the config of {source} must be {rule}; {_OWN_UNITS}")
        return float(value)

    scale, shift = number("scaling_factor", scale, 0.0), number("shift_factor", 0.0 if shift is None else shift)
    each = {name: settings.get(name) for name in ("latents_mean", "latents_std")}
    if all(values is None for values in each.values()):
        return Units(scale, shift, 1.0)
    channels = sizes_of(settings).channels
    for name, values in each.items():
        if not isinstance(values, list | tuple) or len(values) != channels:
            raise UserError(
                f"{name}={values} in the config of {source} must be {channels} numbers, one for each channel;"
                f" {_OWN_UNITS}"
            )
    if shift:
        raise UserError(
            f"the config of {source} has shift_factor={shift:g} beside latents_mean and must have one; {_OWN_UNITS}"
        )
    mean, spread = (
        tuple(number(name, value, above) for value in each[name] or ())
        for name, above in (("latents_mean", -math.inf), ("latents_std", 0.0))
    )
    return Units(scale, mean, spread)


_OWN_UNITS = "take latents.scale=auto, or correct the config"


class Fashion(Diffusers):
    """The KL autoencoder of Fashion-MNIST, padded to 32×32, that the package ships."""

    name = "fashion"
    takes_path = False

    def __init__(self, config: Autoencoder | None = None):
        super().__init__(config or Autoencoder())

    def __str__(self) -> str:
        return "the shipped Fashion-MNIST autoencoder"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return False

    def _folder(self) -> Path:
        return FASHION


class Ldm(Source):
    """A checkpoint of latent diffusion's KL autoencoder, such as kl16.ckpt of MAR."""

    name = "ldm"
    published: ClassVar[Mapping[str, Any]] = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": (*("DownEncoderBlock2D",) * 4, "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 4),
        "block_out_channels": (128, 128, 256, 256, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
    }
    """settings of kl16.ckpt"""

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return path.is_file()

    def settings(self) -> dict[str, Any]:
        from tokenbridge.autoencoders import ldm

        return ldm.settings_of(ldm.read_weights(self._file()), self._file())

    def fingerprint(self) -> str:
        return file_hash(self._file())

    def load(self) -> FrozenAutoencoder:
        from tokenbridge.autoencoders import ldm
        from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
        from tokenbridge.weights import fill

        path = self._file()
        state = ldm.read_weights(path)
        model = build(ldm.settings_of(state, path))
        return FrozenAutoencoder(fill(model, ldm.converted(state, model.state_dict(), path), path))

    def _file(self) -> Path:
        if self.config.path is None or not Path(self.config.path).is_file():
            raise UserError(
                f"autoencoder.path={self.config.path} must be a file where autoencoder.source=ldm (kl16.ckpt of MAR or"
                " LDM); correct the path"
            )
        return Path(self.config.path)


SOURCES: dict[str, type[Source]] = {source.name: source for source in (Digits, Fashion, Trained, Diffusers, Ldm)}


def recognized(path: Path) -> str | None:
    """The name of the source that a path looks like; None where it is like none."""
    return next((name for name, source in SOURCES.items() if source.recognizes(path)), None)


def source_of(config: Autoencoder) -> Source:
    """The source that a config names. UserError for none, and for a path that it would not read."""
    if config.source not in SOURCES:
        raise UserError(f"autoencoder.source={config.source} must be one of {', '.join(SOURCES)}")
    if config.path is not None and not SOURCES[config.source].takes_path:
        with_path = " or ".join(name for name, source in SOURCES.items() if source.takes_path)
        raise UserError(f"autoencoder.path={config.path} needs autoencoder.source={with_path}")
    return SOURCES[config.source](config)


def require_fit(config: RunConfig, settings: Mapping[str, Any]) -> None:
    """Raise UserError unless a run's settings are those of its pretrained autoencoder, which has `settings`."""
    source, sizes = source_of(config.autoencoder), sizes_of(settings)
    source.require_sizes(sizes)
    if config.data.image_channels != sizes.image_channels:
        raise UserError(
            f"data.image_channels={config.data.image_channels} must be {sizes.image_channels}, that of {source};"
            " correct data.image_channels"
        )
    if sizes.image_size not in (None, config.data.image_size):
        raise UserError(
            f"data.image_size={config.data.image_size} must be {sizes.image_size}, the only size of {source}; correct"
            " data.image_size"
        )
    if config.latents.scale == "autoencoder":
        units_of(settings, source)


def architecture(config: Autoencoder) -> dict[str, Any]:
    """Settings of an untrained autoencoder like the pretrained one, with config.channels latent channels."""
    settings = source_of(config).settings()
    if class_of(settings) != KL:
        raise UserError(
            f"autoencoder.path={config.path} is of class {class_of(settings)} and must be of {KL} for tokens that are"
            " trained, whose body is like it; take a quantizer of quantizer.kind that is not trained"
        )
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    stride = sizes_of(settings).stride
    if stride != config.stride:
        raise UserError(f"autoencoder.stride={config.stride} must be {stride}, that of the architecture; correct it")
    return settings | {"latent_channels": config.channels}


def load_autoencoder(config: Autoencoder, device: torch.device | str = "cpu") -> FrozenAutoencoder:
    """The pretrained autoencoder of a config; UserError where its files are missing or do not match the config."""
    source = source_of(config)
    frozen = source.load()
    source.require_sizes(Sizes(frozen.channels, frozen.stride, frozen.image_channels))
    return frozen.to(device)


def autoencoder_of(config: RunConfig, inputs: Mapping[str, Path], device: torch.device | str) -> FrozenAutoencoder:
    """The autoencoder of a run's latents: the pretrained one, or the one that was trained with its quantizer.

    inputs: folders of finished stages by name; `tokenizer` is read where the quantizer is trained, `autoencoder` where
    the autoencoder alone is.
    """
    if config.autoencoder.trained and not config.quantizer.trained:
        return Trained(config.autoencoder).read(inputs["autoencoder"] / BODY_WEIGHTS).to(device)
    if not config.quantizer.trained:
        frozen = load_autoencoder(config.autoencoder, device)
        if config.latents.scale == "autoencoder":
            source = source_of(config.autoencoder)
            frozen.take_units(*units_of(source.settings(), source)[1:])
        return frozen
    from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
    from tokenbridge.tokenizers.trained import BODY, TRAINED, rounded_from
    from tokenbridge.weights import RUN_AGAIN, fill, read

    path = inputs["tokenizer"] / TRAINED
    state = {key.removeprefix(BODY): value for key, value in read(path).items() if key.startswith(BODY)}
    model = fill(build(architecture(config.autoencoder)), state, path, RUN_AGAIN)
    return FrozenAutoencoder(model, rounded_from=rounded_from(config)).to(device)


def weights_of(config: RunConfig, inputs: Mapping[str, Path]) -> str:
    """SHA-256 of the weights of autoencoder_of, hex."""
    if config.autoencoder.trained and not config.quantizer.trained:
        return file_hash(inputs["autoencoder"] / BODY_WEIGHTS)
    if not config.quantizer.trained:
        return source_of(config.autoencoder).fingerprint()
    from tokenbridge.tokenizers.trained import TRAINED

    return file_hash(inputs["tokenizer"] / TRAINED)
