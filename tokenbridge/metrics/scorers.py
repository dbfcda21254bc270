"""Scorers: networks whose features score images, and the files that their weights are in. Needs no torch.

Each has a name of its own, which ends the names of its metrics: numbers by two of them never meet. Published ones have
public files; those of the digits and of Fashion-MNIST ship; `own` is trained on the data (`tokenbridge
train-classifier`), and `autoencoder` is the encoder of any autoencoder: score.weights says where those two are.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbridge import ASSETS
from tokenbridge.config import Autoencoder, Data, Score, UserError
from tokenbridge.store.artifacts import file_hash

if TYPE_CHECKING:
    from tokenbridge.autoencoders.sources import Source

CLASSIFIER = ASSETS / "digits_classifier.safetensors"
"""the shipped weights whose features score digits"""
OWN_FILE = "classifier.safetensors"
"""name of the weights of an own classifier; its card beside it has the same name in .json"""
FASHION_CLASSIFIER = ASSETS / "fashion-classifier" / OWN_FILE
"""an own classifier of Fashion-MNIST, padded to 32×32, that ships"""
ABOUT = "about"
"""key of what such a file says of itself: name, image_size, image_channels, classes (their names), seen; in JSON"""
OWN_REMEDY = (
    "features for your images: `tokenbridge train-classifier IMAGES --out FOLDER`, then score.features=own"
    " score.weights=FOLDER; or score.features=autoencoder score.weights=AUTOENCODER"
)
DINOV2_CODE = "facebookresearch_dinov2_main"
DINOV2_COMMIT = "b8931f7bf91576930313be2c6d6af376033b35f0"
DINOV2_PROGRAMS = (
    # of github.com/facebookresearch/dinov2: find hubconf.py dinov2 -name '*.py' | LC_ALL=C sort | xargs sha256sum |
    # sha256sum, at the last commit of each state since its networks have registers (October 2023)
    "eb51ff6d06c0199ba5717c05beccc16580efb749fcad9c910a8ac12753cb7ee3",  # b8931f7bf915
    "a3d9df02b4b27ff05194a32e995ee1b22e681dea7321429dc29bdb23eb52bff8",  # b48308a394a0
    "7b4b8d14b44c04302d8aa8c3add9ab3258a0540c3f097b2785091d4577a74fcc",  # 112792f16673
    "10c82bd4fe0486a411978f0d407828a963c17f11bd18fc9082d158535553be1d",  # 3a3217b0c05b
    "07a49b797180a6c843794b1e1cf5c7690279c9486bea688765062a398a34f06d",  # e1277af2ba94
    "80becf9a68574d2e25d7763f1fd0adc6aa40a06d96fa3ef40e62429c2b91854a",  # 2302b6bf4695
    "4e28a4fdc659f96afe66bc1afe537b09a9ff6a6375438c0edc153e80627f643e",  # da4b3825f0ed
    "2e4b62c3f14b4b415a2dfbd7fdc967f733e9bad7a7f16593736ef1066be594ac",  # ad5a262b22a6
    "ee0e117767dd13b0675378f0bdc9b8f0899bb0e5110fc58ca9139caf29544fd0",  # e203621e57d8
)
CLIP_SHA256 = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
"""of ViT-L-14-336px.pt; a part of its address, as openai/CLIP checks it"""
CLEAN_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""of inception-2015-12-05.pt; as k-diffusion checks it (github.com/crowsonkb/k-diffusion, evaluation.py)"""


@dataclass(frozen=True)
class Scorer:
    """A network: its features, and its weights with their public source."""

    name: str
    """in score.features"""
    suffix: str
    """ends the names of its metrics"""
    fd: str
    """name of its Fréchet distance: fid_ where the literature calls it FID, else fd_"""
    rfd: str
    """name of the same for reconstructions"""
    by: str
    """who sees the images, in the words of tables and reports"""
    width: int
    """F, of its features; 0 where that depends on the weights (see scorer_of)"""
    resize: str
    file: str = ""
    source: str = ""
    sha256: str = ""
    """of the file, or its first digits"""
    programs: tuple[str, ...] = ()
    """SHA-256 of what may run (metrics.programs), where the weights are more than numbers"""
    spatial: int = 0
    """width of its spatial features, of which sFID is made"""
    cmmd: bool = False
    """whether the literature measures CMMD by it"""
    classifies: bool = False
    """whether it gives logits too, of which the Inception score is made"""
    code: str = ""
    """a folder beside the weights that it needs too"""
    code_source: str = ""
    """a zip of it"""
    caveat: str = ""
    """what is said behind the meaning of its Fréchet distance"""
    agreement: str = "agreement"
    """name of the agreement with labels, of a scorer that knows the classes"""
    shipped: Path | None = None
    """its weights, where the package holds them"""
    tells_images: bool = False
    """whether its weights are of `train-classifier` and say themselves of which images (ABOUT)"""

    @property
    def in_domain(self) -> bool:
        """Whether it is made for certain data alone: it ships with them, or was trained on them."""
        return not self.source

    @property
    def published(self) -> bool:
        return not self.in_domain

    @property
    def knows_classes(self) -> bool:
        """Whether its classes are those of the data."""
        return self.in_domain and self.classifies


SHIPPED, FASHION, OWN, ENCODER = "digits", "fashion", "own", "autoencoder"
SCORERS = {
    scorer.name: scorer
    for scorer in (
        Scorer(
            SHIPPED,
            "digits",
            "fd_digits",
            "fd_digits",
            "the shipped digit classifier",
            64,
            "none",
            classifies=True,
            caveat="; it is not FID, which needs Inception features",
            shipped=CLASSIFIER,
        ),
        Scorer(
            FASHION,
            "fashion",
            "fd_fashion",
            "fd_fashion",
            "the shipped classifier of Fashion-MNIST",
            64,
            "none",
            classifies=True,
            caveat="; it is not FID, which needs Inception features",
            agreement="agreement_fashion",
            shipped=FASHION_CLASSIFIER,
            tells_images=True,
        ),
        Scorer(
            "inception",
            "tf",
            "fid_tf",
            "rfid_tf",
            "torch-fidelity's Inception",
            2048,
            "bilinear to 299 as TensorFlow 1 does it, by torch-fidelity",
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            "6726825d",  # of the file's name, as torch.hub reads it
            spatial=2023,
            classifies=True,
        ),
        Scorer(
            "clean",
            "clean",
            "fid_clean",
            "rfid_clean",
            "clean-fid's Inception and resize",
            2048,
            "bicubic with antialiasing to 299 by PIL, not rounded, by clean-fid",
            "inception-2015-12-05.pt",
            "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            CLEAN_SHA256,
            programs=(CLEAN_SHA256,),
        ),
        Scorer(
            "dinov2",
            "dinov2",
            "fd_dinov2",
            "rfd_dinov2",
            "torch-fidelity's DINOv2",
            1024,
            "bilinear to 224 as TensorFlow 1 does it, by torch-fidelity",
            "dinov2_vitl14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            # its publisher names none; users of the file agree on this one
            "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
            programs=DINOV2_PROGRAMS,
            code=DINOV2_CODE,
            code_source=f"https://github.com/facebookresearch/dinov2/archive/{DINOV2_COMMIT}.zip",
        ),
        Scorer(
            "clip",
            "clip",
            "fd_clip",
            "rfd_clip",
            "CLIP's ViT-L/14 for 336 pixels",
            768,
            "bicubic with antialiasing to 336, not rounded, by torch as by CMMD's own code",
            "ViT-L-14-336px.pt",
            f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-L-14-336px.pt",
            CLIP_SHA256,
            programs=(CLIP_SHA256,),
            cmmd=True,
        ),
        Scorer(
            OWN,
            "own",
            "fd_own",
            "fd_own",
            "the classifier that was trained on these data (score.weights)",
            64,
            "averaged over areas to at most 64 pixels",
            OWN_FILE,
            classifies=True,
            caveat="; it compares with numbers by the same weights only, and is not FID",
            agreement="agreement_own",
            tells_images=True,
        ),
        Scorer(
            ENCODER,
            "autoencoder",
            "fd_autoencoder",
            "fd_autoencoder",
            "the encoder of an autoencoder (score.weights)",
            0,
            "none",
            caveat="; it sees what that autoencoder sees and no more, which favours images that it has decoded, and is"
            " not FID",
        ),
    )
}


def qualified(conditions: Mapping[str, Any], scorer: Scorer, score: Score) -> dict[str, Any]:
    """A scorer's part of a stage's protocol; where several score, its keys begin with the scorer's suffix."""
    prefix = "" if len(score.scorers) == 1 else f"{scorer.suffix}."
    return {f"{prefix}{key}": value for key, value in conditions.items()}


def conditions_in(protocol: Mapping[str, Any], scorer: Scorer) -> dict[str, Any]:
    """What a stage's protocol says for a scorer: what is common to all, and its own part (see qualified)."""
    prefix = f"{scorer.suffix}."
    own = {key.removeprefix(prefix): value for key, value in protocol.items() if key.startswith(prefix)}
    return {**protocol, **own}


def unqualified(field: str) -> tuple[str, str]:
    """A field of a protocol as the scorer that it is of, empty for none, and its name (see qualified)."""
    suffix, point, name = field.partition(".")
    scorer = next((scorer.name for scorer in SCORERS.values() if scorer.suffix == suffix and point), "")
    return (scorer, name) if scorer else ("", field)


def cautions(
    scorer: Scorer, distance: str, weights: str, images: Mapping[str, int | None], unsaid: str = ""
) -> list[str]:
    """What a reader of a Fréchet distance must know beside its protocol, a sentence each, without a full stop.

    Args:
        scorer: whose features it compares.
        distance: its name.
        weights: their SHA-256, hex.
        images: what they are -> how many, None where that is not known.
        unsaid: name of a reference that does not say of which weights it is.
    """
    sentences = [
        f"{count} {what} are too few for the {scorer.width} features of {scorer.name}: their covariance is singular"
        f" and {distance} reads high; it compares with others of as many images only"
        for what, count in images.items()
        if count is not None and count <= scorer.width
    ]
    if not weights.startswith(scorer.sha256):
        sentences.append(
            f"weights {weights[:8]} are not the published {scorer.file} ({scorer.sha256[:8]}): no number of"
            f" {scorer.name} compares with published ones"
        )
    if unsaid:
        sentences.append(
            f"{unsaid} does not say by which weights its statistics are: {distance} takes them as those of"
            f" {scorer.name} by weights {weights[:8]}"
        )
    return sentences


def weights_of(score: Score, name: str) -> Path:
    """The file of a scorer's weights; where score.weights is unset and torch.hub's folder lacks it, it is downloaded.

    Raises UserError naming the file, its source and its hash where it is not to be had.
    """
    scorer = SCORERS[name]
    if scorer.shipped:
        return scorer.shipped
    if name == ENCODER:
        return Path(str(encoder_of(score)))
    if name == OWN:
        return _own_weights(score)
    place = Path(score.weights) if score.weights else hub()
    if place.is_file() and place.name == scorer.file and not scorer.code:
        return place
    # code that comes with weights looks for them in torch.hub's order only
    candidates = [place / "checkpoints" / scorer.file, *(() if scorer.code else [place / scorer.file])]
    found = next((path for path in candidates if path.is_file()), None)
    if found and (not scorer.code or (place / scorer.code / "hubconf.py").is_file()):
        return found
    if score.weights is None:
        return _download(scorer, place)
    raise UserError(f"score.weights={score.weights} {_must_hold(scorer)}")


def weights_hash(score: Score, name: str) -> str:
    """SHA-256 of a scorer's weights, hex."""
    path = weights_of(score, name)
    if name == ENCODER:
        return _encoder_hash(str(path))
    return _hash(path, path.stat().st_mtime_ns)


@cache
def _hash(path: Path, changed: int) -> str:
    return file_hash(path)


def scorer_of(score: Score, name: str) -> Scorer:
    """A scorer with the width that its features have by these weights."""
    scorer = SCORERS[name]
    if scorer.width:
        return scorer
    return replace(scorer, width=encoder_of(score).settings().get("block_out_channels", (64,))[-1])


def misfit(score: Score, name: str, data: Data) -> str:
    """Why a scorer's features are no measure of such images, empty where they are; read from its weights' head."""
    of = f"the features of {name}, which are no measure of other data"
    if name == SHIPPED:
        if data.image_size != 16:
            size = data.image_size
            return f"images of {size}×{size} pixels must have 16×16 for {of}"
        return "" if data.classes == 10 else f"data.classes={data.classes} must be 10 for {of}"
    if SCORERS[name].tells_images:
        about = own_about(weights_of(score, name))
        theirs = about | {"classes": len(about["classes"])}
        wrong = [key for key in ("image_size", "image_channels", "classes") if getattr(data, key) != theirs[key]]
        if wrong:
            return f"data.{wrong[0]}={getattr(data, wrong[0])} must be {theirs[wrong[0]]} for {of}"
        from tokenbridge.data.files import classes_of  # numpy and Pillow: only where they are needed

        ours, known = classes_of(data), about["classes"]
        other = next((label for label, name in enumerate(ours) if name != known[label]), None)
        return "" if other is None else f"class {other} is {ours[other]} and must be {known[other]} for {of}"
    if name == ENCODER:
        from tokenbridge.autoencoders.autoencoder_kl import sizes_of

        sizes = sizes_of(encoder_of(score).settings())
        if data.image_channels != sizes.image_channels:
            return f"data.image_channels={data.image_channels} must be {sizes.image_channels} for {of}"
        if data.image_size % sizes.stride:
            return f"data.image_size={data.image_size} must be a multiple of {sizes.stride} for {of}"
    return ""


def channels_of(score: Score, name: str) -> int:
    """Colours that a scorer takes: those of its own images; 3 where it takes any, grey as three alike."""
    if SCORERS[name].tells_images:
        return own_about(weights_of(score, name))["image_channels"]
    if name == ENCODER:
        return encoder_of(score).settings().get("in_channels", 3)
    return 3


def own_about(path: Path) -> dict[str, Any]:
    """What the weights of an own classifier say of themselves (ABOUT). UserError for another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
        if not {"name", "image_size", "image_channels", "classes"} <= about.keys():
            raise ValueError("it lacks sizes")
        return about
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} must be a whole file of `tokenbridge train-classifier` ({error}); train it again"
        ) from error


def own_cautions(score: Score, data: Data) -> list[str]:
    """What a reader of a classifier's features must know: that it was trained on other splits of these images."""
    sentences = []
    for name in score.scorers:
        if not SCORERS[name].tells_images:
            continue
        seen, ours = own_about(weights_of(score, name)).get("seen", {}), seen_in(data)
        if seen == ours or seen.get("images") != ours["images"]:
            continue
        key = next(key for key in ours if seen.get(key) != ours[key])
        sentences.append(
            f"the classifier was trained with data.{key}={seen.get(key)}, and here it is {ours[key]}: it has seen"
            " images of the test or validation split, and their distances read low"
        )
    return sentences


def seen_in(data: Data) -> dict[str, Any]:
    """What tells the training images of a folder: hash of the folder, and the settings that share it out."""
    from tokenbridge.data.files import fingerprint

    shares = {key: getattr(data, key) for key in ("test_fraction", "validation_fraction", "split_seed")}
    return {"images": fingerprint(data)} | shares


def encoder_of(score: Score) -> Source:
    """The autoencoder that score.weights names for score.features=autoencoder. UserError where it is none."""
    from tokenbridge.autoencoders.autoencoder_kl import KL, class_of
    from tokenbridge.autoencoders.sources import recognized, source_of

    path = score.weights
    if path is not None and (name := recognized(Path(path))) is not None:
        source = source_of(Autoencoder(source=name, path=path))
        if (found := class_of(source.settings())) != KL:
            raise UserError(
                f"score.weights={path} is of class {found} and must be of {KL} with score.features={ENCODER};"
                " name another"
            )
        return source
    raise UserError(
        f"score.weights={path} must be an autoencoder with score.features={ENCODER}: a diffusers folder or an LDM"
        " checkpoint; give it, or make one: tokenbridge train-autoencoder IMAGES"
    )


@cache
def _encoder_hash(path: str) -> str:
    return encoder_of(Score(features=ENCODER, weights=path)).fingerprint()


def _own_weights(score: Score) -> Path:
    place = Path(score.weights or "")
    path = place if place.is_file() else place / OWN_FILE
    if score.weights is None or not path.is_file():
        raise UserError(
            f"score.weights={score.weights} must be the folder that `tokenbridge train-classifier IMAGES --out FOLDER`"
            f" wrote, with score.features={OWN}; give it"
        )
    return path


def hub() -> Path:
    """torch.hub's own folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(os.environ.get("TORCH_HOME", home)).expanduser() / "hub"


def _download(scorer: Scorer, place: Path) -> Path:
    import torch.hub  # torch: only where there is something to download

    path = place / "checkpoints" / scorer.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            torch.hub.download_url_to_file(scorer.source, str(path), scorer.sha256 or None, progress=False)
        if scorer.code and not (place / scorer.code / "hubconf.py").is_file():
            _download_code(scorer, place)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # no internet; another hash
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{place} {_must_hold(scorer)}; downloading it failed ({reason}); own and autoencoder need no download"
        ) from error
    return path


def _download_code(scorer: Scorer, place: Path) -> None:
    """Unpack a repository's one folder beside the weights, as torch.hub does, which would run it at once."""
    import torch.hub

    with tempfile.TemporaryDirectory(dir=place) as name:
        archive = Path(name, "code.zip")
        torch.hub.download_url_to_file(scorer.code_source, str(archive), progress=False)
        with zipfile.ZipFile(archive) as files:
            files.extractall(Path(name, "code"))
        (unpacked,) = Path(name, "code").iterdir()
        unpacked.rename(place / scorer.code)


def _must_hold(scorer: Scorer) -> str:
    file = f"checkpoints/{scorer.file}" if scorer.code else scorer.file
    beside = f" and {scorer.code} (unpacked from {scorer.code_source})" if scorer.code else ""
    known = f"its SHA-256 begins with {scorer.sha256[:8]}"
    return (
        f"must hold {file}{beside} for score.features={scorer.name}; get it from {scorer.source} ({known}) and name its"
        " folder in score.weights"
    )
