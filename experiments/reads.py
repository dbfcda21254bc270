"""What each kind of stage reads of a config: what its id is made of, and nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenbridge.config import Autoencoder, Data, RunConfig, UserError


@cache
def _images(data: Data) -> str:
    from tokenbridge.data.files import fingerprint  # numpy and Pillow: only where an id is asked for

    return fingerprint(data)


@cache
def _weights(autoencoder: Autoencoder) -> str:
    from tokenbridge.autoencoders.files import fingerprint

    return fingerprint(autoencoder)


@cache
def _architecture(autoencoder: Autoencoder) -> dict[str, Any]:
    from tokenbridge.autoencoders.files import settings_of

    return settings_of(autoencoder)


def _pictures(config: RunConfig) -> dict[str, Any]:
    return {
        "data": config.data.model_dump(exclude={"path", "held_out_path", "class_list"}),
        "images": _images(config.data),  # pyright: ignore[reportArgumentType] (frozen models hash)
    }


def tokenizer(config: RunConfig) -> dict[str, Any]:
    from tokenbridge.autoencoders.frozen import architecture
    from tokenbridge.tokenizers.trained import require_trainable

    require_trainable(config)
    trained = config.quantizer.model_dump(include={"kind", "epochs", "seed"}) | {"levels": config.token_levels}
    return _pictures(config) | {"architecture": architecture(config.autoencoder)} | trained


def latents(config: RunConfig) -> dict[str, Any]:
    """Raises UserError for an autoencoder that does not fit the settings: the id holds no more than its weights."""
    from tokenbridge.autoencoders.files import require_fit

    reads = _pictures(config) | config.latents.model_dump()
    if config.quantizer.trained:
        if config.latents.scale == "autoencoder":
            raise UserError(
                f"latents.scale=autoencoder has no meaning with quantizer.kind={config.quantizer.kind}, whose"
                " autoencoder is trained anew; take latents.scale=auto"
            )
        return reads
    require_fit(config, _architecture(config.autoencoder))  # pyright: ignore[reportArgumentType]
    return reads | {"autoencoder": _weights(config.autoencoder)}  # pyright: ignore[reportArgumentType]


def quantizer(config: RunConfig) -> dict[str, Any]:
    if config.quantizer.kind == "identity" or config.quantizer.trained:
        return {"kind": config.quantizer.kind}
    return config.quantizer.model_dump(include={"kind", "levels", "range", "std_range", "edges", "per"})


def extractor(config: RunConfig) -> dict[str, Any]:
    """Raises UserError where weights are not to be had."""
    from tokenbridge.metrics.scorers import weights_hash

    found = [weights_hash(config.score, name) for name in config.score.scorers]
    return {"features": config.score.features, "weights": found[0] if len(found) == 1 else found}


def reconstruct(config: RunConfig) -> dict[str, Any]:
    """A split as the reference enters no id: reconstructions are measured against the training split then."""
    found = extractor(config) | ({} if config.score.split else {"reference": _reference(config)})
    if config.score.lpips is None:
        return found
    from tokenbridge.store.artifacts import file_hash

    try:
        return found | {"lpips": file_hash(Path(config.score.lpips))}
    except OSError as error:
        raise UserError(f"score.lpips={config.score.lpips} must be a file ({error}); correct the path") from None


def _reference(config: RunConfig) -> str:
    """Raises UserError for a file or folder that cannot be the reference of these scorers."""
    from tokenbridge.metrics.reference_files import fingerprint

    return config.score.split or fingerprint(config.score)


def train(config: RunConfig) -> dict[str, Any]:
    """Imported weights are their file: no other setting of a training made them."""
    model = {"backbone": config.backbone.model_dump(), "head": config.head.training_settings()}
    released = config.train.released
    return model | ({"released": released} if released else {"train": config.train.model_dump()})


def likelihood(config: RunConfig) -> dict[str, Any]:
    return {"weights": config.sample.weights}


def sample(config: RunConfig) -> dict[str, Any]:
    """Settings at their defaults stay out, so that a new one changes no id."""
    start = {"start": config.head.start} if config.head.start != "trained" else {}
    return config.sample.model_dump(exclude_defaults=True) | start


def score(config: RunConfig) -> dict[str, Any]:
    return extractor(config) | {"reference": _reference(config)}


def speed(config: RunConfig) -> dict[str, Any]:
    """What time depends on. Not the machine, which the protocol names: ids are the same wherever they are asked for."""
    how, train = config.sample, config.train
    free = {"images", "guidance", "temperature", "seed", "weights"}
    return {
        "sizes": [config.data.classes, config.positions, config.autoencoder.channels, list(config.token_levels)],
        "tokens": config.quantizer.kind,
        "backbone": config.backbone.model_dump(),
        "head": config.head.training_settings(),
        "sample": how.model_dump(exclude_defaults=True, exclude=free),
        "guided": how.guidance != 1,
        "train": [train.batch, train.precision, train.gradient_checkpointing, train.mask_ratio_min],
    }
