"""Trained runs: sampling and likelihood, with any labels and settings.

Letters: N images, H and W sides, L positions, C latent channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbridge.autoencoders.sources import autoencoder_of
from tokenbridge.config import RunConfig, UserError
from tokenbridge.data.latents import Latents, to_grid
from tokenbridge.exchange.hub import is_exported, read_exported
from tokenbridge.library.latents import downloaded, whole
from tokenbridge.overrides import build, override
from tokenbridge.rng import generator
from tokenbridge.stages import STAGES
from tokenbridge.stages.likelihood import bits
from tokenbridge.stages.train import load_model
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import RecordedCell, cells_called, has_metrics, read_metrics

BATCH = 64


class Generator:
    """A run with its generator and autoencoder; `load` opens one.

    Attributes:
        config: the run's settings.
        metrics: what was measured of it, stage/name -> number.
    """

    def __init__(self, store: Store, cell: RecordedCell, device: str | torch.device = "cpu"):
        self.config = build(RunConfig, cell.config)
        folders = {kind: store.folder(id) for kind, id in cell.stages.items() if store.finished(id)}
        self.metrics = {
            f"{kind}/{name}": value
            for kind, folder in folders.items()
            if has_metrics(folder)
            for name, value in read_metrics(folder).metrics.items()
        }
        self._name, self._root = cell.name, store.root
        self._folders, self._device = folders, torch.device(device)

    def require_trained(self) -> None:
        """Refuse a run whose generator is not trained, which has settings and numbers alone."""
        if "train" not in self._folders:
            raise UserError(f"{self._name} is not trained in {self._root}; run it to the end first")

    @cached_property
    def _model(self) -> Any:
        self.require_trained()
        return load_model(self.config, self._folders, self._device, self.config.sample.weights)

    @cached_property
    def _autoencoder(self) -> Any:
        return autoencoder_of(self.config, self._folders, self._device)

    @cached_property
    def _latents(self) -> Latents:
        return Latents(self._folders["latents"])

    def sample(self, labels: Sequence[int] | Tensor, **settings: Any) -> Tensor:
        """Draw an image of each label.

        Args:
            labels: (N,) classes from 0 to K − 1.
            settings: others of the section `sample` than the run's: seed, guidance, temperature, iterations, …
                Image i depends on its label, the settings and i alone.

        Returns:
            uint8 (N, image channels, H, W).

        Raises:
            UserError: a label that is no class, a setting that cannot be.
        """
        wanted = torch.as_tensor(labels, dtype=torch.int64)
        classes = self.config.data.classes
        if wrong := [label for label in wanted.flatten().tolist() if not 0 <= label < classes]:
            raise UserError(f"label {wrong[0]} must be from 0 to {classes - 1}, for there are {classes} classes")
        how = override(self.config, {f"sample.{name}": value for name, value in settings.items()}).sample
        images = []
        for first in range(0, len(wanted), BATCH):
            here = range(first, min(first + BATCH, len(wanted)))
            order, noise = (draw.to(self._device) for draw in self._model.draws(how, here))
            tokens = self._model.sample(wanted[here.start : here.stop].to(self._device), order, noise, how)
            grid = to_grid(self._model.tokenizer.decode(tokens), self._latents.scale)
            images.append(self._autoencoder.decode(grid).cpu())
        return torch.cat(images)

    def likelihood(self, images: Tensor, labels: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
        """Bits per latent dimension of images, as the stage `likelihood` measures them.

        Args:
            images: (N, image channels, H, W), uint8 or floats in [0, 1].
            labels: (N,) their classes.
            seed: of the draws from the posteriors and of the orders.

        Returns:
            float64 (N,), as a density of latents of unit deviation: it can be negative.

        Raises:
            UserError: a head whose density is not computed (diffusion, flow), tokens of another latent space.
        """
        if reason := STAGES["likelihood"].why_not(self.config):
            raise UserError(reason)
        given = torch.as_tensor(labels, dtype=torch.int64)
        draw, values = generator("likelihood of images", seed), []
        stats = self._latents.stats
        normal = torch.tensor([stats["channel_mean"], stats["channel_deviation"]]).to(self._device)
        low, high = self._model.tokenizer.extremes
        for first in range(0, len(images), BATCH):
            moments = self._autoencoder.moments(whole(images[first : first + BATCH]).to(self._device))
            mean, log_variance = moments.flatten(2).transpose(1, 2).cpu().chunk(2, dim=-1)
            deviation = (0.5 * log_variance.clamp(-30, 20)).exp()
            x = (mean + deviation * torch.randn(mean.shape, generator=draw)) * self._latents.scale
            order = torch.stack([torch.randperm(x.shape[1], generator=draw) for _ in x])
            x = x.to(self._device).clamp(low, high)
            here = given[first : first + BATCH].to(self._device)
            values.append(bits(self._model, x, here, order.to(self._device), normal, {})["bits_per_dim"].cpu())
        return torch.cat(values)


class _Exported(Generator):
    """A generator from a folder that `tokenbridge export --hub` wrote."""

    def __init__(self, folder: Path, device: str | torch.device):
        self._exported = read_exported(folder)
        self.config, self.metrics = self._exported.config, self._exported.metrics
        self._folders, self._device = self._exported.folders, torch.device(device)

    @cached_property
    def _autoencoder(self) -> Any:
        return self._exported.autoencoder(self._device)


def load(runs: str | Path, cell: str | None = None, device: str | torch.device = "cpu") -> Generator:
    """Open a trained run.

    Args:
        runs: the runs folder; or, without a cell, a folder that `tokenbridge export CELL --hub` wrote, or its Hugging
            Face id.
        cell: id or name of the run, as `tokenbridge sweeps` and `status` print it.
        device: where it goes.

    Returns:
        A generator: `tb.load("runs", "digits").sample([0, 1, 2], guidance=1.5)`.

    Raises:
        UserError: nothing is called so there, several are, or it is not trained.
    """
    if cell is not None:
        store = Store(Path(runs))
        opened = Generator(store, trained_cell(store, cell), device)
        opened.require_trained()
        return opened
    folder = Path(runs)
    if not folder.exists() and str(runs).count("/") == 1:
        folder = downloaded(str(runs))
    if not is_exported(folder):
        raise UserError(
            f"{runs} must be a folder that tokenbridge export CELL --hub wrote, where no cell is given; correct it, or"
            " give the name of a run as well"
        )
    return _Exported(folder, device)


def trained_cell(store: Store, name: str) -> RecordedCell:
    """The recorded cell of an id or name. UserError where there is none, and for a name of several trainings."""
    matching = {each.stages.get("train"): each for each in cells_called(store, name)}
    if len(matching) > 1:
        ids = ", ".join(each.id for each in matching.values())
        raise UserError(f"{name} names {len(matching)} trainings; give an id: {ids}")
    return next(iter(matching.values()))
