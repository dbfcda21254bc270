"""The stages: functions from artifacts to an artifact, and the one list of them, STAGES.

    latents ─ quantizer ─┬─ reconstruct
                         └─ train ─┬─ likelihood
                                   └─ sample ─ score
    Trained tokens (vq, rvq, fsq, lfq, bsq) begin with `tokenizer`, the training of their autoencoder, and latents of an
    autoencoder that the run trains (autoencoder.source=trained) with `autoencoder`; `speed` needs nothing.

A stage is declared here once, beside the file of its name, whose `run` does it. Ids, manifests, MLflow, reports and
Slurm follow from the declaration. This file imports neither torch nor numpy, so that planning is instant.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenbridge.config import (
    HEAD_KINDS,
    NO_VALIDATION,
    TRAINED_WORDS,
    Autoencoder,
    Data,
    Quantizer,
    RunConfig,
    Runtime,
    Score,
    UserError,
)

if TYPE_CHECKING:
    from tokenbridge.data.files import Split

Result = Literal["", "reconstruction", "generation", "speed"]
FIT_IMAGES = 50_000
"""training images that the scale of latents, their order and levels are fitted to, at most"""
SHIPPED_IMAGES, SHIPPED_SIZE = 1198, 16
"""training images of the shipped digits and their pixels per side: the unit of work"""


def _one(config: RunConfig) -> float:
    return 1


def _images_work(config: RunConfig) -> float:
    """Training images relative to the shipped digits; 1 where they are no longer here, or not for this user."""
    from tokenbridge.data.sources import source_of

    try:
        if not source_of(config.data).there:
            return 1
        return _count(config.data, "train") / SHIPPED_IMAGES  # pyright: ignore[reportArgumentType] (frozen models hash)
    except (UserError, OSError):
        return 1


def _pixels_work(config: RunConfig) -> float:
    return _images_work(config) * (config.data.image_size / SHIPPED_SIZE) ** 2


def _possible(config: RunConfig) -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """The declaration of a kind of stage.

    Its function is `tokenbridge.stages.<name>.run(config, inputs, out, runtime)`: inputs maps the names of the stages
    that it needs to their folders, out is the folder that it writes.
    """

    name: str
    reads: Callable[[RunConfig], dict[str, Any]]
    """what its id hashes of a config, beside the ids of its inputs; UserError for settings that cannot work"""
    needs: tuple[str, ...] = ()
    """kinds that come before it; see `inputs`"""
    version: int = 1
    """raise it when the stage leaves something else for the same settings: its ids change"""
    refusal: Callable[[RunConfig], str] = _possible
    """why a config cannot have this stage, empty where it can"""
    sections: tuple[str, ...] = ()
    """all sections of the config that `reads` looks at; given where many cells of a grid share the stage, so that its
    id is made once for equal sections"""
    resumable: bool = False
    """whether what an interrupted run left is handed to the next one"""
    shared: bool = False
    """whether several processes (tokenbridge.distributed) do it together; else rank 0 alone, and the others wait"""
    smaller: Literal["batch", "accumulate", ""] = "batch"
    """the option with which it needs less memory, if there is one"""
    seconds: float = 5.0
    """first guess of the time for one unit of work on the digits, until the store holds measured ones"""
    work: Callable[[RunConfig], float] = _one
    """units of work, with which the time grows"""
    result: Result = ""
    """which result of a cell it measures, empty for a stage that is run only because others need it"""
    compared: bool = False
    """whether its metrics tell cells of a sweep apart as better and worse"""
    scores: bool = False
    """whether it loads the networks of score.features"""
    measured: bool = True
    """whether it always leaves metrics.json; one that does not may still"""
    examples: Literal["always", "perhaps", "never"] = "never"
    """whether it leaves examples.npz, from which figures are drawn without torch"""
    pictures: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """files for MLflow -> arrays of examples.npz that they show: one as a grid of images, two one above the other"""
    curves: bool = False
    """whether it is a training, which writes a journal of its losses and the steps that it has to go"""
    of_given: bool = False
    """whether a config with given samples (sample.given) can have it, which has no model"""

    def __reduce__(self) -> tuple[Callable[[str], Kind], tuple[str]]:
        """Go to another process by name alone, so that `reads` and `work` may be lambdas."""
        return kind_of, (self.name,)

    def remedy(self, runtime: Runtime) -> str:
        """What to do where there is too little memory."""
        options = {
            "batch": f"set --batch (now {runtime.batch}) lower, or take fewer --jobs",
            "accumulate": f"set --accumulate (now {runtime.accumulate}) higher, or take fewer --jobs",
            "": "take fewer --jobs, or a machine with more of it",
        }
        return options[self.smaller]

    def why_not(self, config: RunConfig) -> str:
        """Why a config cannot have this stage, empty where it can."""
        if config.sample.given and not self.of_given:
            return f"{self.name} is not of given samples (sample.given={config.sample.given}); ask for score alone"
        return self.refusal(config)

    @property
    def run(self) -> Callable[..., None]:
        return importlib.import_module(f"tokenbridge.stages.{self.name}").run

    def inputs(self, config: RunConfig) -> tuple[str, ...]:
        """The kinds that it needs with this config: imported weights and given samples need none, only what is trained
        its training."""
        if (self.name == "train" and config.train.released) or (self.name == "sample" and config.sample.given):
            return ()
        tokens = config.quantizer.trained
        trained = {"tokenizer": tokens, "autoencoder": config.autoencoder.trained and not tokens}
        return tuple(name for name in self.needs if trained.get(name, True))

    @property
    def all_sections(self) -> frozenset[str]:
        """Sections of the config that it depends on, itself or through what it needs."""
        return frozenset(self.sections).union(*(STAGES[name].all_sections for name in self.needs))


def _pair_refusal(config: RunConfig) -> str:
    """Of stages that build a model: why its head cannot predict these tokens."""
    try:
        config.require_pair()
    except UserError as error:
        return str(error)
    return ""


def require_batch(config: RunConfig) -> None:
    """Raise UserError for a training whose batch is of more images than there are."""
    if not config.train.released:
        config.train.require_images(_count(config.data, "train"))  # pyright: ignore[reportArgumentType] (frozen)


def _images(config: RunConfig) -> dict[str, Any]:
    return {
        "data": config.data.model_dump(exclude={"name", "path", "test_path", "class_list", "class_order"}),
        "images": _image_hash(config.data),  # pyright: ignore[reportArgumentType] (frozen models hash)
    }


def forget_hashes() -> None:
    """Look at images, weights and references anew when an id next asks for them: files may have changed."""
    for remembered in (_image_hash, _weights_hash, _architecture, _reference_hash, _code):
        remembered.cache_clear()


@cache
def _image_hash(data: Data) -> str:
    from tokenbridge.data.files import fingerprint  # numpy and Pillow: only where an id is asked for

    return fingerprint(data)


@cache
def _weights_hash(autoencoder: Autoencoder) -> str:
    from tokenbridge.autoencoders.sources import source_of

    return source_of(autoencoder).fingerprint()


@cache
def _architecture(autoencoder: Autoencoder) -> dict[str, Any]:
    from tokenbridge.autoencoders.sources import source_of

    return source_of(autoencoder).settings()


def _autoencoder_reads(config: RunConfig) -> dict[str, Any]:
    from tokenbridge.autoencoders.sources import require_fit

    require_fit(config, settings := _architecture(config.autoencoder))  # pyright: ignore[reportArgumentType]
    trained = {name: getattr(config.autoencoder, name) for name in ("epochs", "seed", "free_nats")}
    return _images(config) | {"architecture": settings} | trained | _recipe_reads(config.autoencoder)


def _recipe_reads(autoencoder: Autoencoder) -> dict[str, Any]:
    """What a training has beside the squared error, by the hash of the network; settings at their defaults stay out."""
    reads = autoencoder.model_dump(include={"ema", "perceptual", "adversarial", "adversarial_start"})
    if autoencoder.perceptual_weights is None:
        return reads
    from tokenbridge.metrics.scorers import OWN_FILE
    from tokenbridge.store.artifacts import file_hash

    path = Path(autoencoder.perceptual_weights)
    try:
        return reads | {"perceptual_weights": file_hash(path / OWN_FILE if path.is_dir() else path)}
    except OSError as error:
        raise UserError(
            f"autoencoder.perceptual_weights={path} must be a file of weights or a folder of train-classifier"
            f" ({error.strerror}); correct the path"
        ) from None


def _autoencoder_refusal(config: RunConfig) -> str:
    if config.autoencoder.trained and not config.quantizer.trained:
        return ""
    if config.autoencoder.trained:
        return f"autoencoder is not trained for quantizer.kind={config.quantizer.kind}, which trains its own"
    return f"autoencoder trains autoencoder.source=trained, not {config.autoencoder.source}"


def _autoencoder_work(config: RunConfig) -> float:
    return config.autoencoder.epochs * _pixels_work(config)


def _tokenizer_reads(config: RunConfig) -> dict[str, Any]:
    from tokenbridge.autoencoders.sources import architecture

    config.require_trainable()
    trained = config.quantizer.model_dump(include={"kind", "epochs", "seed"}) | {"levels": config.token_levels}
    return (
        _images(config)
        | {"architecture": architecture(config.autoencoder)}
        | trained
        | _recipe_reads(config.autoencoder)
    )


def _tokenizer_refusal(config: RunConfig) -> str:
    if config.quantizer.trained:
        return ""
    return f"tokenizer trains quantizer.kind={TRAINED_WORDS}, not {config.quantizer.kind}"


def _tokenizer_work(config: RunConfig) -> float:
    return config.quantizer.epochs * _pixels_work(config)


def _latents_reads(config: RunConfig) -> dict[str, Any]:
    """Of an autoencoder the id holds its weights alone, so one that does not fit the settings is refused here."""
    from tokenbridge.autoencoders.sources import require_fit

    _require_images(config, "train", 2, "the scale of latents")
    reads = _images(config) | config.latents.model_dump()
    if _fitted_across_classes(config.data):  # pyright: ignore[reportArgumentType] (frozen models hash)
        reads |= {"fitted": "of all classes"}  # once it was the first images
    if config.quantizer.trained:
        if config.latents.scale == "autoencoder":
            raise UserError(
                f"latents.scale=autoencoder has no meaning with quantizer.kind={config.quantizer.kind}, whose"
                " autoencoder is trained anew; take latents.scale=auto"
            )
        return reads
    settings = _architecture(config.autoencoder)  # pyright: ignore[reportArgumentType]
    require_fit(config, settings)
    if config.latents.scale == "autoencoder" and settings.get("latents_mean") is not None:
        reads |= {"units": ["latents_mean", "latents_std"]}  # once they were not read
    if config.autoencoder.trained:
        return reads
    return reads | {"autoencoder": _weights_hash(config.autoencoder)}  # pyright: ignore[reportArgumentType]


def _quantizer_reads(config: RunConfig) -> dict[str, Any]:
    if config.quantizer.kind == "identity" or config.quantizer.trained:
        return {"kind": config.quantizer.kind}
    return config.quantizer.model_dump(include={"kind", "levels", "range", "std_range", "edges", "per"})


def _scorers(config: RunConfig) -> dict[str, Any]:
    """Scorers and the hashes of their weights; UserError where weights are not to be had or not what they should be."""
    from tokenbridge.metrics.scorers import weights_hash

    score: Any = config.score  # frozen models hash
    _misfits(score, config.data)  # pyright: ignore[reportArgumentType]
    hashes = [weights_hash(score, name) for name in score.scorers]
    code = _code(score)
    reads = {"features": score.features, "weights": hashes[0] if len(hashes) == 1 else hashes}
    reads |= score.model_dump(include={"precision"})  # float32 stays out
    return reads | ({"code": code} if code else {})


@cache
def _code(score: Score) -> list[str]:
    """Hashes of the repositories that scorers run beside their weights."""
    from tokenbridge.metrics.programs import code_hash

    return [hash for name in score.scorers if (hash := code_hash(score, name))]


def _reference(config: RunConfig) -> str:
    """The split, or the hash of a file or folder; UserError for one that cannot be the reference of these scorers."""
    score: Any = config.score  # frozen models hash
    return score.reference_split or _reference_hash(score, config.data.image_size)


@cache
def _reference_hash(score: Score, image_size: int) -> str:
    from tokenbridge.metrics.reference_files import fingerprint

    return fingerprint(score, image_size)


@cache
def _misfits(score: Score, data: Data) -> list[str]:
    """Why scorers do not measure such images, one reason for each that does not."""
    from tokenbridge.metrics.scorers import misfit

    return [reason for name in score.scorers if (reason := misfit(score, name, data))]


@cache
def _count(data: Data, split: Split) -> int:
    from tokenbridge.data.files import split_of

    return len(split_of(data, split)[1])


@cache
def _fitted_across_classes(data: Data) -> bool:
    """Whether scale, order and levels are fitted to other images than the first, as these are of a few classes."""
    if _count(data, "train") <= FIT_IMAGES:  # pyright: ignore[reportArgumentType] (frozen models hash)
        return False
    from tokenbridge.data.files import split_of
    from tokenbridge.data.images import lies_by_class

    return lies_by_class(split_of(data, "train")[1], FIT_IMAGES)


def _require_images(config: RunConfig, split: Split, least: int, what: str) -> None:
    """Raise UserError for a split of fewer images than a measurement takes, before anything runs."""
    count = _count(config.data, split)  # pyright: ignore[reportArgumentType] (frozen models hash)
    if count < least:
        raise UserError(
            f"the {split} split holds {count} images and must hold {least} at least for {what}; add images, or give"
            " it a larger share"
        )


def _require_scorable(config: RunConfig) -> None:
    """Raise UserError where samples cannot be scored: by features of other images, or by too few images."""
    from tokenbridge.metrics.reference_files import FEWEST
    from tokenbridge.metrics.scorers import OWN_REMEDY

    score: Any = config.score  # frozen models hash
    if reasons := _misfits(score, config.data):  # pyright: ignore[reportArgumentType]
        raise UserError(f"samples cannot be scored: {reasons[0]}; {OWN_REMEDY}; or leave score out (--only sample)")
    if config.sample.images < FEWEST:
        raise UserError(
            f"sample.images={config.sample.images} must be {FEWEST} at least to be scored; take more, or leave score"
            " out"
        )
    if split := score.reference_split:
        _require_images(config, split, FEWEST, f"score.reference={split}")
    if other := config.floor_split:
        _require_images(config, other, 2, "the floor of distances")


def _measured_on(config: RunConfig) -> dict[str, Any]:
    """The split that results are of; UserError where it holds no images."""
    if config.score.split == "validation" and not config.data.validation_fraction:
        raise UserError(f"score.split=validation {NO_VALIDATION}")
    return {"split": config.score.split}


def _reconstruct_reads(config: RunConfig) -> dict[str, Any]:
    """A split as the reference enters no id: reconstructions are measured against the training split then."""
    from tokenbridge.metrics.reference_files import FEWEST

    reads, score = _scorers(config) | _measured_on(config), config.score
    if len(_misfits(score, config.data)) < len(score.scorers):  # pyright: ignore[reportArgumentType]
        _require_images(config, score.split, FEWEST, "Fréchet distances with errors")
        if score.reference_split:
            _require_images(config, "train", 2, "Fréchet distances")
    reads |= {} if config.score.reference_split else {"reference": _reference(config)}
    if config.score.lpips is None:
        return reads
    from tokenbridge.store.artifacts import file_hash

    try:
        return reads | {"lpips_weights": file_hash(Path(config.score.lpips))}
    except OSError as error:
        raise UserError(f"score.lpips={config.score.lpips} must be a file ({error}); correct the path") from None


def _train_reads(config: RunConfig) -> dict[str, Any]:
    """Imported weights are their file: no other setting of a training made them."""
    model = {"backbone": config.backbone.model_dump(), "head": config.head.training_settings()}
    released = config.train.released
    return model | ({"released": released} if released else {"train": config.train.model_dump()})


def _train_work(config: RunConfig) -> float:
    """Epochs × images × operations of each relative to the digits preset, about 6 operations per weight and token."""
    head, backbone, levels = config.head, config.backbone, config.token_levels
    tokens = config.positions + backbone.class_tokens
    work = 12 * backbone.width**2 * (backbone.encoder_depth + backbone.decoder_depth) * tokens
    if levels:
        steps = len(levels) // head.group
        classes = max(levels) ** head.group
        work += config.positions * steps * head.width * (18 * head.width * head.depth + classes)
    else:
        work += config.positions * head.multiplier * 5 * head.width**2 * head.depth
    return config.train.epochs * work / 31e6 * _images_work(config)


def _likelihood_reads(config: RunConfig) -> dict[str, Any]:
    reads: dict[str, Any] = {"weights": config.sample.weights} | _measured_on(config)
    reads |= config.likelihood.model_dump(include={"precision"})  # float32 stays out
    _require_images(config, config.score.split, 2, "bits with errors")
    if config.head.continuous and HEAD_KINDS[config.head.kind].density:  # measured in the bins of quantizers too
        _require_bins(config)
        reads |= config.likelihood.model_dump() | config.quantizer.model_dump(include={"range", "std_range", "edges"})
    return reads


def _require_bins(config: RunConfig) -> None:
    """Raise UserError for likelihood.bins of which no quantizer can be made."""
    from tokenbridge.overrides import build

    of = config.quantizer.model_dump(include={"range", "std_range", "edges"})
    for levels in config.likelihood.bins:
        try:
            build(Quantizer, {"levels": levels} | of)
        except UserError as error:
            raise UserError(f"likelihood.bins={list(config.likelihood.bins)}: {error}") from None


def _likelihood_refusal(config: RunConfig) -> str:
    if config.quantizer.trained:
        reason = f"quantizer.kind={config.quantizer.kind} has latents of its own, whose bits no other tokens share"
    elif not HEAD_KINDS[config.head.kind].density:
        reason = f"head.kind={config.head.kind} has a density that is not computed"
    else:
        return ""
    return f"likelihood cannot be measured: {reason}; ask for other stages, such as score"


def _sample_reads(config: RunConfig) -> dict[str, Any]:
    """Settings at their defaults stay out, so that a new one changes no id, and so do those that no draw reads."""
    if config.sample.given:
        return config.sample.model_dump(exclude_defaults=True)
    from tokenbridge.overrides import settings, unread

    left = unread(settings(config), ("sample", "train"))
    start = {"start": config.head.start} if config.head.start != "trained" and "head.start" not in left else {}
    idle = {key.removeprefix("sample.") for key in left if key.startswith("sample.")}
    return config.sample.model_dump(exclude_defaults=True, exclude=idle) | start


def _sample_work(config: RunConfig) -> float:
    return config.sample.images


def _score_reads(config: RunConfig) -> dict[str, Any]:
    """A split as the reference is of the images that drawn samples come from; given ones come from elsewhere."""
    _require_scorable(config)
    reads = _scorers(config) | {"reference": _reference(config), "floor": config.floor_split}
    return reads | (_images(config) if config.sample.given else {})


def _speed_reads(config: RunConfig) -> dict[str, Any]:
    """All that time depends on except the machine, which the protocol names: ids are the same on each machine."""
    sample, train = config.sample, config.train
    free = {"images", "guidance", "temperature", "seed", "weights"}
    return {
        "sizes": [config.data.classes, config.positions, config.autoencoder.channels, list(config.token_levels)],
        "tokens": config.quantizer.kind,
        "backbone": config.backbone.model_dump(),
        "head": config.head.training_settings(),
        "sample": sample.model_dump(exclude_defaults=True, exclude=free),
        "guided": sample.guidance != 1,
        "train": [train.batch, train.precision, train.gradient_checkpointing, train.mask_ratio_min],
        # once these were not read, so defaults stay out
        **train.model_dump(include={"compile", "mask_ratio_deviation"}, exclude_defaults=True),
    }


def _speed_work(config: RunConfig) -> float:
    return config.head.width / 64


STAGES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "autoencoder",
            _autoencoder_reads,
            refusal=_autoencoder_refusal,
            sections=("data", "autoencoder", "latents", "quantizer"),
            resumable=True,
            seconds=4,
            work=_autoencoder_work,
            curves=True,
        ),
        Kind(
            "tokenizer",
            _tokenizer_reads,
            refusal=_tokenizer_refusal,
            sections=("data", "autoencoder", "latents", "quantizer"),
            resumable=True,
            seconds=8,
            work=_tokenizer_work,
            curves=True,
        ),
        Kind(
            "latents",
            _latents_reads,
            needs=("autoencoder", "tokenizer"),
            sections=("data", "autoencoder", "latents", "quantizer"),
            resumable=True,
            shared=True,
            work=_pixels_work,
            measured=False,
            examples="perhaps",  # spectra came after the first runs
        ),
        Kind(
            "quantizer",
            _quantizer_reads,
            smaller="",
            needs=("tokenizer", "latents"),
            sections=("quantizer",),
            compared=True,
            examples="always",
        ),
        Kind(
            "reconstruct",
            _reconstruct_reads,
            needs=("autoencoder", "tokenizer", "latents", "quantizer"),
            work=_pixels_work,
            result="reconstruction",
            compared=True,
            scores=True,
            examples="always",
            pictures={"strip.png": ("original", "reconstructed")},
        ),
        Kind(
            "train",
            _train_reads,
            needs=("latents", "quantizer"),
            refusal=_pair_refusal,
            sections=("backbone", "head", "train"),
            resumable=True,
            shared=True,
            smaller="accumulate",
            work=_train_work,
            measured=False,  # its curves count without metrics
            curves=True,
        ),
        Kind(
            "likelihood",
            _likelihood_reads,
            needs=("latents", "quantizer", "train"),
            version=2,
            work=_images_work,
            refusal=_likelihood_refusal,
            result="generation",
            compared=True,
        ),
        Kind(
            "sample",
            _sample_reads,
            needs=("autoencoder", "tokenizer", "latents", "quantizer", "train"),
            resumable=True,
            shared=True,
            seconds=0.012,
            work=_sample_work,
            examples="always",
            pictures={"grid.png": ("images",)},
            of_given=True,
        ),
        Kind(
            "score",
            _score_reads,
            needs=("sample",),
            version=2,
            result="generation",
            compared=True,
            scores=True,
            of_given=True,
        ),
        Kind("speed", _speed_reads, refusal=_pair_refusal, work=_speed_work, result="speed", smaller=""),
    )
}
"""All kinds of stages by name, each after those that it needs."""


def kind_of(name: str) -> Kind:
    """The declaration of a recorded stage; one that another version of the project made has its name alone."""
    return STAGES.get(name) or Kind(name, lambda config: {})


def measuring(result: Result) -> tuple[str, ...]:
    """Names of the stages that measure a result."""
    return tuple(kind.name for kind in STAGES.values() if kind.result == result)


def unmeasured() -> tuple[str, ...]:
    """Names of the stages that may leave no metrics.json."""
    return tuple(kind.name for kind in STAGES.values() if not kind.measured)
