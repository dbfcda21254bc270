"""Training of small networks: the shipped KL autoencoder of the digits, one of any images, and the loop of all of them.

Letters: B images, ch image channels, C latent channels, h = w latent positions per side.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from tokenbridge import rng
from tokenbridge.autoencoders.autoencoder_kl import WIDTHS, require_stride
from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build, to_signed
from tokenbridge.autoencoders.losses import Criterion, Recipe, reconstruction_loss
from tokenbridge.autoencoders.sources import CARD, CONFIG, WEIGHTS, Digits
from tokenbridge.checkpoints import Checkpoints, Of, copied, read_checkpoint
from tokenbridge.config import Data, UserError
from tokenbridge.data.images import ArrayImages, Images, batches, few_of, fingerprint, load, stack
from tokenbridge.model.ordering import low_frequency_share
from tokenbridge.optimizer import AdamW
from tokenbridge.signals import interrupted, signals
from tokenbridge.store.artifacts import CHECKPOINT, PROGRESS, write_atomic, write_json
from tokenbridge.store.provenance import environment
from tokenbridge.store.runs import JOURNAL, Journal
from tokenbridge.weights import write_shipped

MEASURED = 1000
"""test images, at most, on which quality is measured"""
SHIPPED = Data(validation_fraction=0)
"""images of the shipped weights: their training took validation images as well, 1,438 in all"""
TRAINED_ON = "the 1,438 digits that are no test images: the training and validation images of the presets"
PIXELS = 2**20
"""pixels in the network at once where quality is measured: 4,096 images of 16×16, 16 of 256×256"""
FREE_NATS = 1.5
"""nats per position below which a channel's mean Kullback–Leibler term is not pushed (free bits, arXiv 1606.04934)"""

DEFINITIONS = {
    "psnr_db": "posterior means decoded to uint8, peak 255, squared error averaged over all pixels of all images",
    "mean_image_psnr_db": "the same, a value an image, averaged",
    "psnr_db_with_noise_of_a_tenth": "the same as psnr_db, each mean moved by normal noise of a tenth of its channel's"
    " aggregate deviation",
    "aggregate_deviation": "deviation of a draw from the posterior of a random image and position: its mean square is"
    " the means' variance + the mean posterior variance",
    "noise_ratio": "mean posterior deviation ÷ aggregate deviation, a value a channel",
    "informative_channels": "channels with noise_ratio < 0.5",
    "low_frequency_share": "share of each channel's spectral energy at up to 0.25 cycles per position, of the means",
    "aggregate_mean, skewness, excess_kurtosis, channel_correlation": "of the posterior means",
}


@dataclass(frozen=True)
class Budget:
    """Length and speed of a training, the same for the shipped autoencoder and for trained tokenizers."""

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 3e-3

    def steps(self, images: int) -> int:
        """Steps of a training on so many images; of each epoch the last ones that fill no batch are left out."""
        return self.epochs * (images // self.batch)


def train_autoencoder(out: Path, epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Train the shipped autoencoder of the digits again, on all but the test images.

    Writes `digits_autoencoder.safetensors` and its card `.json` into `out` and returns the card; quality is measured on
    the weights as stored (float16), on the test images.
    """
    with rng.drawn_from(seed, "autoencoder", "weights"):
        model = build(Digits().settings())
    draws = rng.generator(seed, "autoencoder", "data")
    minimize(lambda images: evidence_loss(model, images, draws), model, load(SHIPPED, "train"), Budget(epochs), draws)
    path, settings = out / Digits.weights.name, {"epochs": epochs, "seed": seed}
    return write_shipped(
        model, path, "train-autoencoder", settings, evaluate, trained_on=TRAINED_ON, definitions=DEFINITIONS
    )


def train_own_autoencoder(
    out: Path,
    images: Data,
    channels: int,
    stride: int,
    epochs: int = 30,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch: int = 64,
    recipe: Recipe | None = None,
    checkpoint_seconds: float | None = None,
    half: bool = False,
) -> tuple[FrozenAutoencoder, Tensor]:
    """Train on a folder of images and make `out` a diffusers folder with card.json and the journal of its losses.

    It goes on from a checkpoint of the same settings in `out`, bit for bit, and leaves its last one there: what follows
    may fail, and does not cost the training then. Who is done with it deletes it (`CHECKPOINT`).

    By squared error and the Kullback–Leibler term alone large photographs come out blurred; a recipe adds a perceptual
    distance and a discriminator.

    Args:
        out: the folder.
        images: of a folder.
        channels: latent channels C.
        stride: pixels per latent position and side; see require_stride.
        batch: images per step; fewer where there are fewer.
        recipe: what is minimized beside the squared error and the Kullback–Leibler term, and whether weights are
            averaged; None: nothing, and they are not.
        checkpoint_seconds: from one checkpoint to the next; None: as many as keep their cost at 3 % of the time.
        half: store the weights as float16, diffusers' variant fp16, in half the size.

    Returns:
        The autoencoder, and the test images on which its card measures it, uint8 (N, ch, H, W).
    """
    require_stride(stride, images.image_size)
    levels = stride.bit_length()
    with rng.drawn_from(seed, "autoencoder", "weights"):
        model = build({
            "in_channels": images.image_channels,
            "out_channels": images.image_channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": WIDTHS[:levels],
            "layers_per_block": 1,
            "latent_channels": channels,
            "norm_num_groups": 8,
            "sample_size": images.image_size,
            "mid_block_add_attention": False,
        }).to(device)  # fmt: skip
    draws = rng.generator(seed, "autoencoder", "data")
    train = in_memory(load(images, "train"))
    budget = Budget(epochs, min(batch, len(train)))
    about = {"image_size": images.image_size, "image_channels": images.image_channels}
    about |= {"channels": channels, "stride": stride, "train_images": len(train)}
    about |= {"epochs": epochs, "batch": budget.batch, "seed": seed}
    recipe, steps = recipe or Recipe(), budget.steps(len(train))
    about |= recipe.about(steps)
    criterion = Criterion(recipe, model.decoder.conv_out.weight, images.image_channels, images.image_size, steps, seed)
    of = about | {"images": fingerprint(images), "test_fraction": images.test_fraction}
    of |= {"validation_fraction": images.validation_fraction, "split_seed": images.split_seed}
    kept = Checkpoints(out / CHECKPOINT, of, checkpoint_seconds)
    minimize(
        lambda x: evidence_loss(model, x, draws, criterion=criterion),
        model, train, budget, draws, augment=mirror, told=True, ema=recipe.ema, kept=kept, criterion=criterion,
    )  # fmt: skip
    model = model.half().float() if half else model  # measured as it is stored
    state = {name: (value.half() if half else value).cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(out / CONFIG, model.to_json_string().encode())
    kind, former = (".fp16", "") if half else ("", ".fp16")
    write_atomic(out / f"{WEIGHTS}{kind}.safetensors", save(state, {"format": "pt"}))
    (out / f"{WEIGHTS}{former}.safetensors").unlink(missing_ok=True)  # it would be read in place of these
    test = load(images, "test")
    pixels = torch.cat([part for part, _ in batches(test, MEASURED, few_of(test.labels, MEASURED).tolist())])
    frozen = FrozenAutoencoder(model.eval().requires_grad_(False))
    card = {
        "images": images.path or images.name,
        **about,
        **({"weights": "float16"} if half else {}),
        "versions": environment()["versions"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "quality": quality(frozen, pixels),
        "definitions": DEFINITIONS,
    }
    write_json(out / CARD, card)
    return frozen, pixels


def minimize(
    loss: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Images,
    budget: Budget,
    draws: torch.Generator,
    no_bar: bool | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    told: bool = False,
    ema: float = 0.0,
    kept: Checkpoints | None = None,
    criterion: Criterion | None = None,
) -> None:
    """Train a model in place; its weights are in evaluation mode afterwards.

    Args:
        loss: of a batch (B, ch, H, W) in [−1, 1].
        draws: generator of the images' order and of the augmentation.
        augment: changes uint8 images before each step; `shift` unless another is given.
        told: whether lines tell the progress where no terminal shows a bar.
        ema: decay of the average that the weights are replaced with at the end; 0: the last ones stay.
        kept: where checkpoints are and what they belong to; the training goes on from one that is there, with the same
            weights in the end, bit for bit, and its curves lie beside it, in the project's journal. None: neither.
        criterion: what `loss` takes reconstructions by, whose discriminator is trained along and whose terms are shown.

    Raises:
        UserError: too few images, or a checkpoint of another training.
        Interrupted: a signal came; the checkpoint was written before.
    """
    if len(images) < budget.batch:
        raise UserError(f"data holds {len(images)} training images and must hold {budget.batch}, a batch; add some")
    training = _Training(loss, model, images, budget, draws, augment or shift, ema, criterion)
    steps, device = training.steps, training.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), ExitStack() as stack:
        noted = None
        if kept:
            noted = stack.enter_context(signals())
            stack.enter_context(kept)
            if kept.path.exists():
                training.load(kept.path, kept.of)
        curves = _Curves(training, kept)
        bar: tqdm[Any] | Lines = tqdm(
            initial=training.step, total=steps, desc="autoencoder", disable=no_bar, leave=False
        )
        if told and not sys.stderr.isatty():
            bar = Lines(steps, "autoencoder", training.step)
        stack.callback(bar.close)
        for value in training.losses():
            curves.add(value)
            bar.update()
            if kept and noted:
                kept.save(training, urgent=noted.urgency > 0 or training.step == steps)
                if noted.urgency and training.step < steps:
                    print(
                        f"stopped at step {training.step} of {steps}; the same command goes on from there", flush=True
                    )
                    raise interrupted(noted.urgency)
    training.end()


class _Training:
    """What moves in a training: weights and their average, optimizer, schedule, draws, and the place in an epoch."""

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        model: nn.Module,
        images: Images,
        budget: Budget,
        draws: torch.Generator,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        ema: float,
        criterion: Criterion | None,
    ):
        self.loss, self.model, self.images, self.draws, self.augment = loss, model, images, draws, augment
        self.criterion = criterion
        self.batch, self.epoch_steps = budget.batch, len(images) // budget.batch
        self.steps, self.step, self.order = budget.steps(len(images)), 0, torch.empty(0, dtype=torch.int64)
        self.device = next(model.parameters()).device
        self.optimizer = AdamW(model.parameters(), budget.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, budget.learning_rate, total_steps=self.steps, pct_start=0.15
        )
        self.decay = ema
        self.ema = {name: p.detach().clone() for name, p in model.named_parameters()} if ema else {}
        self.sums = dict[str, Tensor]()
        """of what the curves show since their last point"""

    def losses(self) -> Iterator[Tensor]:
        """Take all steps that are left; yield the loss of each."""
        self.model.train()
        while self.step < self.steps:
            if not (done := self.step % self.epoch_steps):
                self.order = torch.randperm(len(self.images), generator=self.draws)[: self.epoch_steps * self.batch]
            for pixels, _ in batches(self.images, self.batch, self.order[done * self.batch :].tolist()):
                batch = to_signed(self.augment(pixels, self.draws)).to(self.device)
                value = self.loss(batch.contiguous(memory_format=torch.channels_last))
                _step(self.model, value, self.optimizer, self.schedule, f"{self.step + 1} of {self.steps}", 1.0)
                if self.criterion:
                    self.criterion.follow()
                self._average()
                self.step += 1
                yield value.detach()

    def _average(self) -> None:
        """Move the average after the weights, with a decay that grows to its value, as in the generator's training."""
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.model.named_parameters() if self.decay else ():
                self.ema[name].lerp_(p, 1 - keep)

    def end(self) -> None:
        """Put the average in place of the weights where there is one."""
        if self.ema:
            self.model.load_state_dict(self.ema, strict=False)  # buffers, such as codes, are averages by themselves
        self.model.eval()

    def state(self, of: Of) -> dict[str, Any]:
        """A copy, in the processor's memory, of all that the training goes on from, of which `of` says what it is."""
        cuda = self.device.type == "cuda"
        state = {
            **{"of": of, "step": self.step, "order": self.order, "ema": self.ema, "sums": self.sums},
            **{name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")},
            "draws": self.draws.get_state(),
            "random": torch.get_rng_state(),  # what libraries draw
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        return copied(state | ({"criterion": self.criterion.state_dict()} if self.criterion else {}))

    def load(self, path: Path, of: Of) -> None:
        """Go on from a checkpoint. UserError where it is damaged or another's."""
        state = read_checkpoint(path, of, torch.device("cpu"))
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("ema", "sums"):
            setattr(self, name, {key: value.to(self.device) for key, value in state[name].items()})
        if self.criterion:
            self.criterion.load_state_dict(state["criterion"])
        self.step, self.order = state["step"], state["order"]
        self.draws.set_state(state["draws"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)


CURVE_POINTS = 400


class _Curves:
    """The points of a training's curves: means since the last point, the rate of the next step; none without `kept`.

    The journal lies beside the checkpoint, and with it the number of steps, which says how far the training is.
    """

    def __init__(self, training: _Training, kept: Checkpoints | None):
        self.training, self.every, self.journal = training, max(1, training.steps // CURVE_POINTS), None
        if kept:
            self.journal = Journal(kept.path.with_name(JOURNAL), before=training.step + 1)
            write_json(kept.path.with_name(PROGRESS), {"steps": training.steps})

    def add(self, loss: Tensor) -> None:
        if self.journal is None:
            return
        training, sums = self.training, self.training.sums
        for key, value in {"loss": loss, **(training.criterion.terms if training.criterion else {})}.items():
            # a term may begin between two points, so each has its own count
            seen = torch.stack([value.double(), torch.ones_like(value, dtype=torch.float64)])
            sums[key] = sums[key] + seen if key in sums else seen
        if training.step % self.every == 0 or training.step == training.steps:
            means = {key: float(total / count) for key, (total, count) in sums.items()}
            self.journal.write(training.step, **means, learning_rate=float(training.schedule.get_last_lr()[0]))
            sums.clear()


IN_MEMORY = 2**30
"""bytes of images that are kept in memory for a training, at most"""
TELL_SECONDS = 10.0


class Lines:
    """The progress of a training where no terminal shows a bar: a line every few seconds, on standard output."""

    def __init__(self, steps: int, what: str, done: int = 0):
        self.steps, self.what, self.done, self.first = steps, what, done, done
        self.start = self.told = time.monotonic()

    def update(self) -> None:
        self.done += 1
        if (now := time.monotonic()) - self.told >= TELL_SECONDS:
            self.told, left = now, (now - self.start) / (self.done - self.first) * (self.steps - self.done)
            print(f"{self.what}: step {self.done} of {self.steps}, about {left:.0f} s left", flush=True)

    def close(self) -> None:
        print(f"{self.what}: {self.done} steps in {time.monotonic() - self.start:.0f} s", flush=True)


def progress(steps: int, what: str) -> tqdm[Any] | Lines:
    """A bar where a terminal shows it, else lines for a log."""
    return tqdm(total=steps, desc=what, leave=False) if sys.stderr.isatty() else Lines(steps, what)


def in_memory(images: Images) -> Images:
    """The images, read once where they fit into IN_MEMORY, so that no epoch decodes files again."""
    if not len(images) or images[0][0].numel() * len(images) > IN_MEMORY:
        return images
    return ArrayImages(*stack(images))


def epoch_orders(images: int, batch: int, epochs: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Yield a random order of the images for each epoch, cut to whole batches."""
    for _ in range(epochs):
        yield torch.randperm(images, generator=draws)[: images // batch * batch]


def descend(
    model: nn.Module,
    losses: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    bar: tqdm[Any] | Lines,
) -> None:
    """Take a step for each loss, which `losses` computes with the current weights.

    Raises:
        UserError: a loss or its gradient is not finite.
    """
    model.train()
    for number, loss in enumerate(losses, 1):
        _step(model, loss, optimizer, schedule, str(number))
        bar.update()
    bar.close()
    model.eval()


def _step(
    model: nn.Module,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    number: str,
    clip: float = math.inf,
) -> None:
    """Take the step of a loss, called by its number; clip: largest gradient norm. UserError where it is not finite."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not bool(loss.isfinite() & norm.isfinite()):
        raise UserError(
            f"the loss or its gradient is not finite at step {number}: lower the learning rate, or look for images that"
            " make it so; what was saved, if anything, is of an earlier step"
        )
    optimizer.step()
    schedule.step()


def evidence_loss(
    model: Any,
    images: Tensor,
    draws: torch.Generator,
    free_nats: float = FREE_NATS,
    criterion: Callable[[Tensor, Tensor], Tensor] = reconstruction_loss,
) -> Tensor:
    """Negative evidence bound per pixel (arXiv 1312.6114), normal decoder of fixed deviation, free bits.

    criterion: nats per image of reconstructions and images, in place of the normal's.
    """
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=draws).to(images.device)
    error = criterion(model.decode(posterior.mean + posterior.std * noise).sample, images)
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar)
    channels = divergence.mean((0, 2, 3)).clamp(min=free_nats)
    return (error + channels.sum() * divergence[0, 0].numel()) / images[0].numel()


def shift(images: Tensor, draws: torch.Generator) -> Tensor:
    """Move half of the images by −2, 0 or 2 pixels per axis (one pixel of the 8×8 originals); uint8 (B, ch, H, W)."""
    steps = torch.randint(-1, 2, (len(images), 2), generator=draws) * 2
    moved = torch.rand(len(images), generator=draws) < 0.5
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    size = images.shape[-1]
    return torch.stack(
        [
            padded[i, :, 2 + y : 2 + y + size, 2 + x : 2 + x + size] if moved[i] else images[i]
            for i, (y, x) in enumerate(steps.tolist())
        ]
    )


def mirror(images: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror half of the images; uint8 (B, ch, H, W)."""
    chosen = torch.rand(len(images), generator=draws) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def evaluate(path: Path) -> dict[str, Any]:
    """Measure stored weights on the test digits, as DEFINITIONS says."""
    return quality(Digits(weights=path).load(), torch.from_numpy(stack(load(SHIPPED, "test"))[0].copy()))


def quality(frozen: FrozenAutoencoder, images: Tensor) -> dict[str, Any]:
    """Measure an autoencoder on images, uint8 (N, ch, H, W), as DEFINITIONS says."""
    device, part = next(frozen.model.parameters()).device, max(1, PIXELS // images[0, 0].numel())

    def through(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        return torch.cat([network(batch.to(device)).cpu() for batch in inputs.split(part)])

    mean, logvar = through(frozen.moments, images).chunk(2, 1)
    error = (through(frozen.decode, mean).double() - images.double()).square()
    flat = mean.double().movedim(1, 0).flatten(1)  # (C, N·h·w)
    posterior = (0.5 * logvar.double()).exp().movedim(1, 0).flatten(1)
    aggregate = (flat.var(1) + posterior.square().mean(1)).sqrt()
    ratio = posterior.mean(1) / aggregate
    standard = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    noise = 0.1 * aggregate.float()[:, None, None] * torch.randn(mean.shape, generator=rng.generator(0))
    noisy = through(frozen.decode, mean + noise)
    return {
        "psnr_db": _psnr(error),
        "mean_image_psnr_db": round(float(np.mean([_psnr(e) for e in error])), 2),
        "psnr_db_with_noise_of_a_tenth": _psnr((noisy.double() - images.double()).square()),
        "images": len(images),
        "informative_channels": int((ratio < 0.5).sum()),
        "noise_ratio": _rounded(ratio),
        "posterior_deviation": _rounded(posterior.mean(1)),
        "aggregate_mean": _rounded(flat.mean(1)),
        "aggregate_deviation": _rounded(aggregate),
        "skewness": _rounded(standard.pow(3).mean(1)),
        "excess_kurtosis": _rounded(standard.pow(4).mean(1) - 3),
        "low_frequency_share": _rounded(low_frequency_share(mean)),
        "channel_correlation": [_rounded(row) for row in flat.corrcoef().reshape(len(flat), -1)],
    }


def _psnr(error: Tensor) -> float:
    """PSNR, dB, from squared errors of any shape; where all are 0, as if one value were off by 1."""
    return round(10 * math.log10(255**2 * error.numel() / max(float(error.sum()), 1.0)), 2)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
