"""Every knob of a run, as frozen pydantic models; errors that a reader can act on.

A RunConfig holds only what changes a number. Where and how fast it runs is in Runtime and never enters an id.
"""

from __future__ import annotations

import errno
import math
import os
import re
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

NO_MEMORY = r"out of memory|t allocate memory|not enough memory|_ALLOC_FAILED|could not create a primitive"
"""as torch, its allocators, cuBLAS and cuDNN word it, and oneDNN when it gets none for its code"""


def on_one_line(text: str) -> str:
    """A text whose control characters, such as line breaks, are shown as they are typed."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda control: repr(control[0])[1:-1], text)


def short_of_memory(error: BaseException | None) -> str:
    """What a library said when it got no memory of the device or the machine; empty for other errors.

    A reader may have taken it for a damaged file, so the errors that led to this one are looked at too.
    """
    while error is not None:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        wanting = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        if wanting or (isinstance(error, RuntimeError) and re.search(NO_MEMORY, text)):
            return text
        error = error.__cause__ or error.__context__
    return ""


class UserError(ValueError):
    """Input that cannot work. The message is one line: the value, the rule and the remedy."""

    def __str__(self) -> str:
        """The message; a line break in a value is shown as it is typed."""
        return on_one_line(super().__str__())


class Config(BaseModel):
    """Frozen, hashable, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_typed(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse what would be made a number in silence (true and "5"), and whole numbers of more than 64 bits."""
        name = field.field_name or ""
        kinds, words = kinds_of(cls, name), _words(cls.model_fields[name].annotation)
        for each in value if isinstance(value, list | tuple) else (value,):
            if type(each) is int and abs(each) >= 2**63:
                raise PydanticCustomError("huge", "must lie within ±2^63")
            if isinstance(each, str) and not _utf8(each):
                raise PydanticCustomError("utf8", "must be UTF-8 text; rename what it names")
            word = type(each) is str and not {repr(each), "text"} & set(words)
            if kinds & {int, float} and (type(each) is bool or word):
                raise PydanticCustomError("no_number", "no number")
        return value


@cache
def kinds_of(model: type[Config], name: str) -> frozenset[type]:
    """The types that a setting's values have: those of its alternatives, of the items of its lists, of its literals."""
    return frozenset(_kinds(model.model_fields[name].annotation))


def _kinds(annotation: Any) -> set[type]:
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    inner = set[type]().union(*(_kinds(each) for each in get_args(annotation) if each is not Ellipsis))
    return inner | {annotation if not inner else get_origin(annotation)} & {bool, int, float, str, tuple}


def holds_path(section: str, name: str) -> bool:
    """Whether a setting of a section of RunConfig names a file or folder."""
    model = RunConfig.model_fields[section].annotation if section in RunConfig.model_fields else None
    field = getattr(model, "model_fields", {}).get(name)
    return field is not None and any(
        isinstance(each, AfterValidator) and each.func is _path
        for kind in (field, *get_args(field.annotation))
        for each in getattr(kind, "metadata", None) or getattr(kind, "__metadata__", ())
    )


def words_of(model: type[Config], name: str) -> str:
    """What a setting may be, in words: `'auto', 'autoencoder' or a number`."""
    *first, last = dict.fromkeys(_words(model.model_fields[name].annotation))
    return f"{', '.join(first)} or {last}" if first else last


def bounds_of(model: type[Config], name: str) -> str:
    """The range of a setting's numbers in words, such as `1 to 100` and `above 0, below 1`; empty where it has none."""
    field = model.model_fields[name]
    limits: dict[str, Any] = {}
    for bound in (*field.metadata, *_metadata(field.annotation)):
        limits |= {word: value for word in _BOUNDS if (value := getattr(bound, word, None)) is not None}
    told = {word: f"{value:,.0f}" if value == int(value) else f"{value:g}" for word, value in limits.items()}
    if told.keys() == {"ge"}:
        return f"{told['ge']} or more"
    if told.keys() == {"ge", "le"}:
        return f"{told['ge']} to {told['le']}"
    return ", ".join(f"{words} {told[word]}" for word, words in _BOUNDS.items() if word in told)


_BOUNDS = {"ge": "from", "gt": "above", "le": "at most", "lt": "below"}


def _metadata(annotation: Any) -> list[Any]:
    """What is said of the values of an annotation, of its alternatives and of the items of its lists."""
    inner = [each for part in get_args(annotation) for each in _metadata(part)] if get_origin(annotation) else []
    own = getattr(annotation, "metadata", None) or getattr(annotation, "__metadata__", ())
    return [*inner, *(part for each in own for part in getattr(each, "metadata", [each]))]


def _words(annotation: Any) -> list[str]:
    arguments = [each for each in get_args(annotation) if each is not Ellipsis]
    if get_origin(annotation) is Literal:
        return [repr(value) for value in arguments]
    if get_origin(annotation) is tuple:
        count = "" if Ellipsis in get_args(annotation) else f"{len(arguments)} "
        kind = {int: "whole numbers", float: "numbers"}
        return [f"a list of {count}{next((kind[each] for each in kind if each in _kinds(annotation)), 'words')}"]
    if get_origin(annotation) is Annotated:
        return _words(arguments[0])
    told = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "none"}
    return [told[annotation]] if annotation in told else [word for each in arguments for word in _words(each)]


def _utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _path(text: str) -> str:
    if not text or "\0" in text or max(len(os.fsencode(part)) for part in text.split("/")) > 255:
        raise PydanticCustomError("path", "must name a file or folder; leave it out if there is none")
    return text


FilePath = Annotated[str, AfterValidator(_path)]
"""of a file or folder; digits alone are text all the same"""


def _title(text: str) -> str:
    if not text.strip() or len(text) > LONGEST_TITLE or not text.isprintable():
        raise PydanticCustomError("title", "must be printable text of 1 to 100 characters, not blanks alone")
    return text


LONGEST_TITLE = 100
NO_VALIDATION = "needs validation images, and data.validation_fraction=0 leaves none; give them a share of data.path"
RENAMED = {"data.held_out_path": "data.test_path"}
"""settings by the name that they once had"""
MOST = 65_536
"""of sizes and counts that no model or machine comes near"""


_GO_WITH = {
    "class_list": ("folder",),
    "test_path": ("folder", "parquet", "tar"),
    "image_column": ("parquet", "tar"),
    "label_column": ("parquet", "tar"),
}
"""settings of Data -> the sources that read them"""


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]


class Data(Config):
    source: Literal["digits", "folder", "torchvision", "parquet", "tar"] = "digits"
    """digits: the shipped handwritten ones; folder: images in path; torchvision: the classification set that name
    names; parquet: tables as Hugging Face ships images; tar: shards of WebDataset"""
    name: Annotated[str, AfterValidator(_title)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """what reports call the images; unset: the folder's name. It enters no id of a stage. source=torchvision: the set,
    such as FashionMNIST or CIFAR10"""
    path: FilePath | None = None
    """source=folder: folder with one sub-folder per class (torchvision ImageFolder), or of images alone, which are one
    class; source=parquet, tar: a file, a folder of such, or a pattern (train-*.parquet); source=torchvision: the set's
    root, into which it is downloaded where it is not there; unset: Debian's copy, or the user's cache folder"""
    test_path: FilePath | None = None
    """such a folder, file or pattern of test images; without it, they are what path names test, else test_fraction of
    each class of path"""
    image_column: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """source=parquet: column of the images (unset: image); source=tar: ending of the images' names (unset: that of an
    image)"""
    label_column: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """source=parquet: column of the labels (unset: label); source=tar: ending of the labels' names (unset: cls). Labels
    are whole numbers from 0; with classes=1 none are read"""
    class_list: FilePath | None = Field(default=None, exclude_if=lambda value: value is None)
    """text file that names the class folders, one per line in the order of their labels; others are left out. Without
    it, all folders, in class_order"""
    class_order: Literal["text", "numeric"] = Field(default="text", exclude_if=lambda value: value == "text")
    """order of the class folders' names, which gives their labels: as text (torchvision's), or as whole numbers"""
    image_size: int = Field(default=16, ge=4, le=MOST)
    """pixels per side; larger images are scaled and cut to their middle (ADM's crop), smaller ones enlarged"""
    padded: bool = Field(default=False, exclude_if=lambda value: not value)
    """put images whose shorter side is smaller than image_size into the middle of black, as they are, instead of
    enlarging them"""
    image_channels: Literal[1, 3] = 1
    """1: grey, 3: colours"""
    classes: int = Field(default=10, ge=1, le=10_000_000)
    """number of class folders, or of labels; checked against them"""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """share of each class of path that results are reported on, where there is no test_path"""
    validation_fraction: float = Field(default=0.134, ge=0, lt=1)
    """share of each class of path that settings are chosen on, never trained on and never reported; 0: no such images.
    Of the digits, 1,198 train, 240 validate and 359 test"""
    split_seed: int = Field(default=0, ge=0)
    """draws which images of path are for the test and for validation"""

    @model_validator(mode="after")
    def _path(self) -> Self:
        files = self.source in ("folder", "parquet", "tar")
        if self.path is None and files:
            raise ValueError(f"data.source={self.source} must come with data.path, its images; give both or neither")
        if self.source == "torchvision" and self.name is None:
            raise ValueError("data.source=torchvision must come with data.name, such as FashionMNIST; give it")
        if self.padded and self.source == "digits":
            raise ValueError("data.padded=true goes with images that are read, not with the digits; leave it out")
        if self.path is not None and self.source == "digits":
            raise ValueError(f"data.path={self.path} goes with data.source=folder and others; give both or neither")
        for name, sources in _GO_WITH.items():
            if (value := getattr(self, name)) is not None and self.source not in sources:
                raise ValueError(f"data.{name}={value} goes with data.source={_either(sources)} only; leave it out")
        if self.class_order != "text" and (self.class_list is not None or self.source != "folder"):
            raise ValueError("data.class_order=numeric goes with data.source=folder without a class_list; leave it out")
        return self


MOST_EMA = 0.99999
"""decay of an average of weights, at most"""


def _unset(value: object) -> bool:
    return not value


class Autoencoder(Config):
    source: str = "digits"
    """digits, fashion: those that ship; diffusers, ldm: pretrained ones at path; trained: like that of the digits, by a
    stage of its own"""
    path: FilePath | None = None
    """source=diffusers: folder of an AutoencoderKL, AutoencoderTiny, AutoencoderDC, AutoencoderRAE or VQModel;
    source=ldm: checkpoint of LDM or MAR (kl16.ckpt)"""
    channels: int = Field(default=8, ge=1, le=MOST)
    """latent channels C; checked against the weights"""
    stride: int = Field(default=4, ge=1, le=MOST)
    """pixels per latent position and axis; checked against the weights"""
    free_nats: float = Field(default=1.5, ge=0, le=100, exclude_if=lambda value: value == 1.5)
    """source=trained: nats per position below which a channel's mean information is not pushed (free bits, arXiv
    1606.04934); the fewer, the fewer channels say the same"""
    epochs: int = Field(default=30, ge=1, le=1_000_000, exclude_if=lambda value: value == 30)
    """source=trained: epochs of its training"""
    seed: int = Field(default=0, ge=0, exclude_if=lambda value: not value)
    """source=trained: seed of that training"""
    ema: float = Field(default=0.0, ge=0, le=MOST_EMA, exclude_if=_unset)
    """of its training, alone (source=trained) or with its tokens: decay of the average of the weights
    that is kept in their place; 0: the last ones are"""
    perceptual: float = Field(default=0.0, ge=0, le=1e6, exclude_if=_unset)
    """of either training: weight of a perceptual distance beside the mean squared error of images in [−1, 1]"""
    perceptual_weights: FilePath | None = Field(default=None, exclude_if=_unset)
    """its network: torchvision's weights of VGG-16 or AlexNet (LPIPS), or a folder of train-classifier"""
    adversarial: float = Field(default=0.0, ge=0, le=1e6, exclude_if=_unset)
    """of either training: weight of a discriminator of patches, times the ratio of the gradients at the decoder's last
    layer (VQGAN; 0.5 in latent diffusion)"""
    adversarial_start: int | None = Field(default=None, ge=0, le=MOST, exclude_if=lambda value: value is None)
    """steps before the discriminator begins; unset: half of the training's"""

    @property
    def trained(self) -> bool:
        """Whether a stage of the run trains it."""
        return self.source == "trained"

    @model_validator(mode="after")
    def _training(self) -> Self:
        for name in ("free_nats", "epochs", "seed"):
            value = getattr(self, name)
            if not self.trained and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"autoencoder.{name}={value:g} goes with autoencoder.source=trained only; leave it out"
                )
        if bool(self.perceptual) != bool(self.perceptual_weights):
            raise ValueError(
                f"autoencoder.perceptual={self.perceptual:g} and autoencoder.perceptual_weights="
                f"{self.perceptual_weights} must be given together; give the other, or leave both out"
            )
        if self.adversarial_start is not None and not self.adversarial:
            raise ValueError(
                f"autoencoder.adversarial_start={self.adversarial_start} goes with autoencoder.adversarial; give its"
                " weight too"
            )
        return self


Precision = Literal["float32", "tf32", "bfloat16"]
"""of the products of networks: float32; tf32, on a GPU alone: factors of 10 bits; bfloat16: 8 bits, as training has"""


def _precision() -> Any:
    return Field(default="float32", exclude_if=lambda value: value == "float32")


class Latents(Config):
    scale: Literal["auto", "autoencoder"] | Annotated[float, Field(ge=1e-6, le=1e6)] = "auto"
    """factor to unit standard deviation: auto measures it on the training split, KL-16 of MAR uses 0.2325; autoencoder:
    scaling_factor of a diffusers config, and shift_factor or latents_mean and latents_std, where there are such (SD,
    SDXL, SD3, FLUX)"""
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", exclude_if=lambda value: value == "float32"
    )
    """type of the stored moments"""
    flip: bool = Field(default=False, exclude_if=lambda value: not value)
    """store mirrored training images as well; training then draws either, with equal probability"""
    precision: Precision = _precision()
    """of the products in encoding: float32, tf32 (a GPU's) or bfloat16; moments are stored in latents.dtype"""


Levels = Annotated[int, Field(ge=2, le=65536)]


TRAINED_TOKENS = ("vq", "rvq", "fsq", "lfq", "bsq")
"""kinds of quantizer that are trained with their autoencoder"""
TRAINED_WORDS = f"{', '.join(TRAINED_TOKENS[:-1])} or {TRAINED_TOKENS[-1]}"


class Quantizer(Config):
    kind: Literal["gaussian", "uniform", "quantile", "lloyd-max", "identity", "vq", "rvq", "fsq", "lfq", "bsq"] = (
        "gaussian"
    )
    """the last five train an autoencoder of the same body around themselves; all others take it as it is"""
    levels: Levels | tuple[Levels, ...] = 64
    """V, levels per channel (paper: B = 64); vq: codes of the codebook; rvq: of each, coarse to fine, as [64, 64];
    fsq: also one number per channel; lfq, bsq: 2"""
    range: float = Field(default=5.0, ge=1e-6, le=1e6)
    """[-range, range] of unit-deviation latents is mapped to [-r, r] (paper: 5)"""
    std_range: float = Field(default=3.0, gt=0, le=100)
    """r of equation 1 (paper: 3)"""
    edges: Literal["clamped", "truncated"] = "clamped"
    """clamped: equal-probability edges of N(0, 1) clamped to ±r (paper); truncated: spaced over [Φ(-r), Φ(r)]"""
    per: Literal["tensor", "channel"] = "tensor"
    """data-fitted quantizers: one set of levels for all channels, or one per channel"""
    epochs: int = Field(default=30, ge=1, le=1_000_000)
    """vq, rvq, fsq, lfq, bsq: epochs of training of their autoencoder; the shipped one was trained for as many"""
    seed: int = Field(default=0, ge=0)
    """vq, rvq, fsq, lfq, bsq: seed of that training"""

    @property
    def trained(self) -> bool:
        """Whether tokens come from an autoencoder that was trained with its quantizer."""
        return self.kind in TRAINED_TOKENS

    @property
    def levels_each(self) -> int:
        """B, where it is one number for all channels, as with every post-training quantizer."""
        assert isinstance(self.levels, int)
        return self.levels

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if isinstance(self.levels, tuple) and self.kind not in ("fsq", "rvq"):
            raise ValueError(
                f"levels={list(self.levels)} must be one number with quantizer.kind={self.kind};"
                " only fsq has one per channel and rvq one per codebook"
            )
        if self.kind == "rvq" and (isinstance(self.levels, int) or len(self.levels) < 2):
            said = list(self.levels) if isinstance(self.levels, tuple) else self.levels
            raise ValueError(
                f"levels={said} must be two or more numbers with quantizer.kind=rvq, the codes of each codebook, coarse"
                " to fine, as in [64, 64]; one codebook is kind=vq"
            )
        if self.kind in ("lfq", "bsq") and self.levels != 2:
            raise ValueError(
                f"levels={self.levels} must be 2 with quantizer.kind={self.kind} (a channel is a bit;"
                " autoencoder.channels says how many)"
            )
        if self.kind == "gaussian" and self.edges == "clamped":
            tail = 0.5 * math.erfc(self.std_range / math.sqrt(2))
            if tail * self.levels_each >= 1:
                most = math.ceil(1 / tail) - 1
                raise ValueError(
                    f"levels={self.levels} must be at most {most} with edges=clamped at std_range={self.std_range:g}"
                    " (the clamped edges coincide and leave empty bins); use quantizer.edges=truncated"
                )
        return self


class Transformer(Config):
    """Settings that the blocks of backbone and head share."""

    width: int = Field(default=1024, ge=1, le=MOST)
    """D, features of each token; a multiple of heads"""
    heads: int = Field(default=16, ge=1, le=MOST)
    """attention heads of each block"""
    mlp_ratio: float = Field(default=4.0, gt=0, le=1000)
    """hidden units of a block's network, per feature"""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """share of features that training drops behind attention and network"""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """share of attention weights that training drops"""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            name = type(self).__name__.lower()
            raise ValueError(f"{name}.width={self.width} must be a multiple of {name}.heads={self.heads}")
        if int(self.width * self.mlp_ratio) < 1:
            name = type(self).__name__.lower()
            raise ValueError(f"{name}.mlp_ratio={self.mlp_ratio:g} must be >= 1/{self.width}, one hidden unit at least")
        return self


class Backbone(Transformer):
    encoder_depth: int = Field(default=16, ge=1, le=MOST)
    """blocks that see the known positions alone"""
    decoder_depth: int = Field(default=16, ge=1, le=MOST)
    """blocks that see all positions"""
    class_tokens: int = Field(default=64, ge=1, le=MOST)
    """copies of the class embedding in front of the sequence (the buffer of MAR)"""
    decoder_heads: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """attention heads of the decoder; unset: as many as the encoder's, backbone.heads"""

    @model_validator(mode="after")
    def _decoder_divides(self) -> Self:
        if self.width % (self.decoder_heads or 1):
            raise ValueError(
                f"backbone.width={self.width} must be a multiple of backbone.decoder_heads={self.decoder_heads}"
            )
        return self


class HeadKind(NamedTuple):
    """The declaration of a kind of head: where its class is, and what the configuration has to know of it."""

    code: str
    """dotted name of its class, which is imported where a model is built: planning needs no torch"""
    predicts: Literal["levels", "values"]
    guided: tuple[str, ...]
    """values that sample.guidance_on may have; `auto` is the first"""
    density: bool
    """whether it gives an exact likelihood"""
    reads: tuple[str, ...]
    """settings of Head that it uses; the others enter no id, so changing them trains nothing again"""


_TRANSFORMER = ("heads", "mlp_ratio", "attention_dropout", "dropout", "order", "group")
# fmt: off
HEAD_KINDS: dict[str, HeadKind] = {
    "autoregressive": HeadKind(
        "tokenbridge.model.heads.autoregressive.AutoregressiveHead",
        "levels", ("features", "logits"), density=True, reads=_TRANSFORMER),
    "parallel": HeadKind(
        "tokenbridge.model.heads.parallel.ParallelHead",
        "levels", ("features", "logits"), density=True, reads=_TRANSFORMER),
    "diffusion": HeadKind(
        "tokenbridge.model.heads.diffusion.DiffusionHead",
        "values", ("estimate", "features"), density=False, reads=("multiplier",)),
    "flow": HeadKind(
        "tokenbridge.model.heads.flow.FlowHead",
        "values", ("estimate", "features"), density=False, reads=("multiplier",)),
    "mixture": HeadKind(
        "tokenbridge.model.heads.mixture.MixtureHead",
        "values", ("features",), density=True, reads=("components", "covariance")),
}
# fmt: on
"""the one list of heads"""
CATEGORICAL = tuple(name for name, kind in HEAD_KINDS.items() if kind.predicts == "levels")
CONTINUOUS = tuple(name for name, kind in HEAD_KINDS.items() if kind.predicts == "values")
MOST_CLASSES = 65_536
"""that a categorical head may predict at once"""
MOST_CODES = 65_536
"""in a trained codebook, levels multiplied over channels: training keeps a table of all of them. Not of rvq,
whose codebooks are apart"""


def _known_head(kind: str) -> str:
    if kind not in HEAD_KINDS:
        raise ValueError(f"head.kind={kind} must be one of {', '.join(HEAD_KINDS)}")
    return kind


class Head(Transformer):
    kind: Annotated[str, AfterValidator(_known_head)] = "autoregressive"
    """autoregressive and parallel predict levels (categorical), diffusion, flow and mixture continuous values"""
    depth: int = Field(default=4, ge=1, le=MOST)
    """blocks between a token's feature and what is predicted"""
    heads: int = Field(default=8, ge=1, le=MOST)
    """attention heads of each block of a transformer head"""
    order: Literal["stored", "frequency", "reverse", "random"] | tuple[int, ...] = "stored"
    """order in which channels are predicted; frequency: highest share of low-frequency energy first"""
    group: int = Field(default=1, ge=1, le=MOST)
    """channels predicted together as one class of levels^group (paper, table 2d: 1, 2, 4)"""
    start: Literal["trained", "released"] = "trained"
    """sampling as trained or as released. autoregressive: released adds a step embedding to the first element;
    diffusion: released does not limit its estimates of the clean value"""
    multiplier: int = Field(default=4, ge=1, le=MOST)
    """diffusion, flow: draws of time and noise per token in a training step (MAR: 4)"""
    components: int = Field(default=16, ge=1, le=MOST)
    """mixture: number of Gaussians (GIVT: 16)"""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """mixture: covariance of each Gaussian"""

    @property
    def continuous(self) -> bool:
        """Whether it predicts values, not levels."""
        return HEAD_KINDS[self.kind].predicts == "values"

    def training_settings(self) -> dict[str, Any]:
        """The settings that training this kind of head reads."""
        return self.model_dump(include={"kind", "width", "depth", *HEAD_KINDS[self.kind].reads})


Share = Annotated[float, Field(ge=0, lt=1)]


class Train(Config):
    epochs: int = Field(default=800, ge=1, le=1_000_000)
    """passes over the training images"""
    warmup_epochs: float = Field(default=200, ge=0)
    """epochs in which the learning rate rises to its value; fewer than epochs"""
    batch: int = Field(default=2048, ge=1, le=10_000_000)
    """images per step, over all processes"""
    learning_rate: float = Field(default=8e-4, gt=0, le=1000)
    """of AdamW, after the warm-up"""
    weight_decay: float = Field(default=0.02, ge=0, le=1000)
    """of AdamW"""
    decay: Literal["matrices", "released"] = Field(default="matrices", exclude_if=lambda value: value == "matrices")
    """which weights decay: those of two or more dimensions; or as in the code of MAR and TokenBridge: no bias, but the
    mask token and the unconditional embedding, and nothing of a diffusion head"""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """of AdamW: rates of the averages of gradients and of their squares"""
    ema: float = Field(default=0.9999, ge=0, lt=1)
    """largest rate of the moving average; at update t it is min(ema, (1+t)/(10+t))"""
    clip: float = Field(default=1.0, gt=0)
    """largest gradient norm"""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """of the products in training; weights are float32 in both"""
    gradient_checkpointing: bool = False
    """compute activations anew in the backward pass: less memory, more time"""
    compile: bool = Field(default=False, exclude_if=lambda value: not value)
    """torch.compile of the loss: changes the draws of dropout and the rounding. Unset, it enters no id"""
    label_drop: float = Field(default=0.1, ge=0, lt=1)
    """share of images that are trained without their class, for guidance"""
    mask_ratio_min: float = Field(default=0.7, gt=0, lt=1)
    """the share of masked positions is drawn from a normal around 1, truncated to [mask_ratio_min, 1]"""
    mask_ratio_deviation: float = Field(default=0.25, gt=0, le=1e6)
    """standard deviation of that normal"""
    seed: int = Field(default=0, ge=0)
    """of weights, order of images, masks and dropout"""
    released: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{12}$", exclude_if=lambda value: value is None)
    """weights that are imported, not trained: their file, as `tokenbridge import` names it. Unset, it enters no id"""

    def require_images(self, count: int) -> None:
        """Raise UserError for a batch of more images than there are for training."""
        if self.batch > count and not self.released:
            raise UserError(
                f"train.batch={self.batch} must be at most {count}, the number of training images; lower it"
            )

    @model_validator(mode="after")
    def _seedless(self) -> Self:
        if self.released and self.seed:
            raise ValueError(f"train.seed={self.seed} must be 0 with train.released, whose weights have no other seed")
        return self

    @model_validator(mode="after")
    def _warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} must be < epochs={self.epochs}; lower train.warmup_epochs"
            )
        return self


Temperature = Annotated[float, Field(ge=0, le=1e6)]


class Sample(Config):
    images: int = Field(default=50_000, ge=1, le=1_000_000_000)
    """images to draw, their classes in turn"""
    iterations: int = Field(default=256, ge=1, le=MOST**2)
    """unmasking steps, 1 to L"""
    temperature: Temperature | tuple[Temperature, ...] = 1.0
    """0 takes the most likely level; categorical heads: also one for each step of the channel order"""
    top_k: int | None = Field(default=None, ge=1, le=MOST_CLASSES)
    """categorical heads: draw from the k most likely levels"""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """categorical heads: draw from the fewest levels that hold this share of the probability"""
    guidance: float = Field(default=1.0, ge=0, le=1e6)
    """classifier-free guidance weight; 1 is off"""
    guidance_schedule: Literal["linear", "constant", "cosine"] = "linear"
    """how guidance rises over the iterations to its value"""
    guidance_on: Literal["auto", "features", "logits", "estimate"] = "auto"
    """what is guided: the features, a categorical head's logits, or the estimate (noise, velocity) of a diffusion or
    flow head; auto: the estimate where there is one, else the features"""
    confidence: float = Field(default=0.0, ge=0, le=1e6)
    """heads with a likelihood: strength of confidence-guided generation (paper, figure 8): positions are revealed by
    log probability per channel times this, plus Gumbel noise; 0: in random order"""
    head_steps: int = Field(default=100, ge=1, le=1000)
    """diffusion: respaced steps per token; flow: integration steps per token"""
    solver: Literal["euler", "midpoint"] = "euler"
    """flow: of the integration"""
    weights: Literal["ema", "raw"] = "ema"
    """ema: the moving average of the weights; raw: the last ones"""
    seed: int = Field(default=0, ge=0)
    """of the images: number i has a generator of its own from it"""
    precision: Precision = _precision()
    """of the products in sampling and decoding: float32, tf32 (a GPU's) or bfloat16"""
    compile: bool = Field(default=False, exclude_if=lambda value: not value)
    """torch.compile of the backbone's blocks: changes the rounding. Unset, it enters no id"""
    given: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{12}$", exclude_if=lambda value: value is None)
    """images that nobody here draws: their hash, as `tokenbridge samples add` names it; unset, it enters no id"""

    @model_validator(mode="after")
    def _given(self) -> Self:
        for name in type(self).model_fields if self.given else ():
            value = getattr(self, name)
            if name not in ("given", "images") and value != type(self).model_fields[name].default:
                raise ValueError(f"sample.{name}={value} goes with images that are drawn, not given; leave it out")
        return self


class Likelihood(Config):
    bins: tuple[Annotated[int, Field(ge=2)], ...] = (8, 16, 32, 64)
    """of a head with a density of values: levels per channel of the quantizers (gaussian, with quantizer.range) in
    whose bins it is made constant, to be compared with heads of as many levels"""
    precision: Precision = _precision()
    """of the products: float32, tf32 (a GPU's) or bfloat16; probabilities are float32 in all"""


SCORERS = ("digits", "fashion", "inception", "clean", "dinov2", "clip", "own", "autoencoder")
SHIPPED_SCORERS = ("digits", "fashion")
"""scorers whose weights the package holds"""


def _known_scorers(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Accept one name or several different ones."""
    several = tuple(names.split(",")) if isinstance(names, str) else names
    wrong = [name for name in several if name not in SCORERS]
    if wrong or len(set(several)) < len(several) or not several:
        raise ValueError(f"score.features={','.join(several)} must be one or several of {', '.join(SCORERS)}")
    return several[0] if len(several) == 1 else several


class Score(Config):
    features: Annotated[str | tuple[str, ...], AfterValidator(_known_scorers)] = "digits"
    """one or several scorers (inception,clean,dinov2,clip; own: what `train-classifier` made of your images;
    autoencoder: an encoder): networks whose features are compared; each has metrics of its own"""
    weights: FilePath | None = Field(default=None, exclude_if=lambda value: value is None)
    """folder of the scorers' weights by their public names (such as torch.hub's), or the file of one; unset: the
    folder of torch.hub, and what it lacks is downloaded. own: the folder of `train-classifier`; autoencoder: a
    diffusers folder or LDM checkpoint"""
    reference: FilePath = "train"
    """real images: train, validation, test, a folder of images, or a file: statistics or images (.npz), kept features
    (.safetensors)"""
    split: Literal["validation", "test"] = "test"
    """the images that bits, reconstructions and the floor of distances are measured on: test is reported, settings are
    chosen on validation"""
    reference_features: (
        Literal["digits", "fashion", "inception", "clean", "dinov2", "clip", "own", "autoencoder"] | None
    ) = Field(default=None, exclude_if=lambda value: value is None)
    """whose features the statistics of score.reference are, for a file that does not say it itself"""
    lpips: FilePath | None = Field(default=None, exclude_if=lambda value: value is None)
    """torchvision's weights of VGG-16 or AlexNet, the network of LPIPS of reconstructions; unset: no LPIPS"""
    precision: Precision = _precision()
    """of the products of the scorers' networks: float32, tf32 (a GPU's) or bfloat16"""

    @model_validator(mode="after")
    def _weights_are_read(self) -> Self:
        if self.weights is not None and not {*self.scorers} - {*SHIPPED_SCORERS}:
            raise ValueError(
                f"score.weights={self.weights} must be left out with score.features={','.join(self.scorers)}, whose"
                " weights ship; or name other scorers in score.features"
            )
        return self

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.features,) if isinstance(self.features, str) else self.features

    @property
    def reference_split(self) -> Literal["train", "validation", "test"] | None:
        """The split that is the reference; None where it is a folder or a file."""
        splits = ("train", "validation", "test")
        return self.reference if self.reference in splits else None  # pyright: ignore[reportReturnType]


class RunConfig(Config):
    """One cell of a grid, from images to scores."""

    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    latents: Latents = Latents()
    quantizer: Quantizer = Quantizer()
    backbone: Backbone = Backbone()
    head: Head = Head()
    train: Train = Train()
    likelihood: Likelihood = Likelihood()
    sample: Sample = Sample()
    score: Score = Score()

    @property
    def grid_size(self) -> int:
        """Latent positions per side, h = w; L = h·w."""
        return self.data.image_size // self.autoencoder.stride

    @property
    def positions(self) -> int:
        return self.grid_size**2

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.data.image_size % self.autoencoder.stride:
            raise ValueError(
                f"data.image_size={self.data.image_size} must be a multiple of"
                f" autoencoder.stride={self.autoencoder.stride}"
            )
        if self.sample.iterations > self.positions and not self.sample.given:
            raise ValueError(
                f"sample.iterations={self.sample.iterations} must be at most {self.positions}, the number of positions"
                " (each iteration reveals at least one)"
            )
        levels, channels = self.quantizer.levels, self.autoencoder.channels
        if self.quantizer.kind == "fsq" and isinstance(levels, tuple) and len(levels) != channels:
            raise ValueError(
                f"quantizer.levels={list(levels)} must be {channels} numbers, one for each of autoencoder.channels"
            )
        return self

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        """What a training of an autoencoder has goes with one."""
        for name in ("ema", "perceptual", "adversarial"):
            if (value := getattr(self.autoencoder, name)) and not (self.autoencoder.trained or self.quantizer.trained):
                raise ValueError(
                    f"autoencoder.{name}={value:g} goes with an autoencoder that is trained, alone"
                    f" (autoencoder.source=trained) or with its tokens (quantizer.kind={TRAINED_WORDS}); leave it out"
                )
        return self

    @model_validator(mode="after")
    def _splits(self) -> Self:
        """What a setting is chosen on is not what is reported."""
        if self.score.split == "validation" and self.reads_test:
            raise ValueError(
                f"score.reference={self.score.reference} must not be the test images with score.split=validation, by"
                " which settings are chosen; take train, validation or other images"
            )
        if self.score.reference == "validation" and not self.data.validation_fraction:
            raise ValueError(f"score.reference=validation {NO_VALIDATION}")
        return self

    @property
    def floor_split(self) -> Literal["train", "validation", "test"] | None:
        """The split whose distance to the reference is the floor; None where the reference is none, or it is empty."""
        score = self.score
        if score.reference_split != "train":
            return "train" if score.reference_split else None
        return None if score.split == "validation" and not self.data.validation_fraction else score.split

    @property
    def reads_test(self) -> bool:
        """Whether the test images are the reference."""
        return self.score.reference in ("test", self.data.test_path)

    @model_validator(mode="after")
    def _sampling(self) -> Self:
        kind, how = self.head.kind, self.sample
        if self.head.continuous:
            for name, off in (("top_k", None), ("top_p", 1.0)):
                if getattr(how, name) != off:
                    raise ValueError(f"sample.{name}={getattr(how, name)} needs a head of levels, not head.kind={kind}")
            if isinstance(how.temperature, tuple):
                raise ValueError(
                    f"sample.temperature={list(how.temperature)} must be one number with head.kind={kind}, which draws"
                    " all channels at once"
                )
        if how.guidance_on not in ("auto", *HEAD_KINDS[kind].guided):
            raise ValueError(
                f"sample.guidance_on={how.guidance_on} must be one of {HEAD_KINDS[kind].guided} with head.kind={kind}"
            )
        if how.confidence > 0 and not HEAD_KINDS[kind].density:
            raise ValueError(
                f"sample.confidence={how.confidence:g} must be 0 with head.kind={kind}, which has no"
                " likelihood to rank by"
            )
        return self

    @property
    def token_levels(self) -> tuple[int, ...]:
        """Levels of each channel of a token; none for continuous tokens. A channel of vq and rvq is a codebook."""
        levels, channels = self.quantizer.levels, self.autoencoder.channels
        if isinstance(levels, tuple):
            return levels
        return {"identity": (), "vq": (levels,)}.get(self.quantizer.kind, (levels,) * channels)

    def require_pair(self) -> None:
        """Raise UserError unless the head can predict these tokens."""
        kind, levels = self.head.kind, self.token_levels
        pair = f"quantizer.kind={self.quantizer.kind} cannot go with head.kind={kind}"
        if self.head.continuous:
            if levels:
                raise UserError(
                    f"{pair}, which predicts continuous values; choose quantizer.kind=identity, or head.kind"
                    f" {' or '.join(CATEGORICAL)}"
                )
            return
        if not levels:
            raise UserError(
                f"{pair}, which predicts levels; choose a quantizer (gaussian, uniform, quantile, lloyd-max,"
                f" {TRAINED_WORDS}), or head.kind {', '.join(CONTINUOUS[:-1])} or {CONTINUOUS[-1]}"
            )
        self._require_order(levels)
        self._require_groups(levels)

    def _require_order(self, levels: tuple[int, ...]) -> None:
        order, temperature = self.head.order, self.sample.temperature
        if isinstance(order, tuple) and sorted(order) != list(range(len(levels))):
            raise UserError(f"head.order={list(order)} must hold each channel 0..{len(levels) - 1} once")
        steps = len(levels) // self.head.group
        if isinstance(temperature, tuple) and len(temperature) != steps:
            raise UserError(f"sample.temperature={list(temperature)} must be one number, or {steps}: one per step")

    def _require_groups(self, levels: tuple[int, ...]) -> None:
        group = self.head.group
        if len(levels) % group:
            raise UserError(f"head.group={group} must divide {len(levels)}, the channels of a token")
        classes = math.prod(sorted(levels)[-group:])
        if group > 1 and classes > MOST_CLASSES:
            outputs = len(levels) // group * classes * self.head.width
            raise UserError(
                f"head.group={group} makes {classes:,} classes per group, which must be at most {MOST_CLASSES:,}: its"
                f" output layer alone would hold {outputs / 1e6:,.0f}M weights ({outputs * 16 / 1e9:,.0f} GB to train);"
                " lower head.group or quantizer.levels"
            )

    def require_trainable(self) -> None:
        """Raise UserError for a codebook that cannot be trained."""
        kind, levels = self.quantizer.kind, self.token_levels
        assert self.quantizer.trained
        if kind == "fsq" and min(levels) < 3:
            raise UserError(
                f"quantizer.levels={list(levels)} must each be >= 3 with quantizer.kind=fsq; for bits, take lfq or bsq"
            )
        codes = math.prod(levels)
        if codes > MOST_CODES and kind != "rvq":
            less = "autoencoder.channels" if kind in ("lfq", "bsq") else "quantizer.levels"
            raise UserError(
                f"quantizer.kind={kind} makes {codes:,} codes of {len(levels)} channels, which must be at most"
                f" {MOST_CODES:,}; lower {less}"
            )


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise ValueError(f"device={text} is no device; use auto, cpu or cuda")
    return text


class Runtime(Config):
    """Where and how fast; changes no number beyond float tolerance and enters no id."""

    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto, cpu or cuda"""
    threads: int | None = Field(default=None, ge=1, le=MOST)
    """CPU threads of a stage; unset: its share of the processors"""
    batch: int = Field(default=256, ge=1, le=10_000_000)
    """images at once when encoding, sampling and scoring"""
    checkpoint_seconds: float | None = Field(default=None, ge=0)
    """seconds from one checkpoint of a training to the next; unset: as many as keep their cost at 3 % of the time, at
    least 60 and at most 900"""
    accumulate: int = Field(default=1, ge=1, le=10_000_000)
    """micro-batches of a training step in each process: less memory, more time"""
    bars: bool = True
    """progress bars, where a terminal shows them"""
    trust_weights: bool = False
    """whether code that comes with a scorer's weights runs though its hash is not known"""

    @property
    def no_bar(self) -> bool | None:
        """tqdm's `disable`; None shows bars where there is a terminal."""
        return None if self.bars else True
