"""Training of autoencoders: it goes on after a kill bit for bit, and its weights are averaged as is said."""

import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from vector_quantize_pytorch import VectorQuantize

from tests.helpers.processes import start
from tests.helpers.scorers import pictures
from tokenbridge import rng
from tokenbridge.autoencoders.frozen import build
from tokenbridge.autoencoders.losses import reconstruction_loss
from tokenbridge.autoencoders.train import Budget, Lines, descend, minimize, mirror
from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import UserError
from tokenbridge.data.images import ArrayImages
from tokenbridge.store.artifacts import CHECKPOINT
from tokenbridge.store.runs import JOURNAL, read_journal

BUDGET = Budget(5, 7, 3e-3)
STEPS = 5 * (23 // 7)
IMAGES = ArrayImages(pictures(23, size=8), np.zeros(23, np.int64))


class Quantized(nn.Module):
    """A small autoencoder around a codebook, for which the library draws from torch's global state."""

    def __init__(self):
        super().__init__()
        self.body = build({
            "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (4, 4), "layers_per_block": 1,
            "latent_channels": 3, "norm_num_groups": 2, "mid_block_add_attention": False,
        })  # fmt: skip
        self.codes = VectorQuantize(3, 5, accept_image_fmap=True, kmeans_init=True, threshold_ema_dead_code=2)

    def loss(self, images):
        codes, _, commitment = self.codes(self.body.encode(images).latent_dist.mean.contiguous())
        return reconstruction_loss(self.body.decode(codes).sample, images) / images[0].numel() + commitment.sum()


def trained(
    out: Path, pause: float = 0.0, of: str = "x", seconds: float | None = 0, fails_after: int | None = None
) -> None:
    """A training that writes its checkpoints and its weights into `out`; pause: seconds that a step waits."""
    steps = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Quantized()

        def loss(images):
            nonlocal steps
            time.sleep(pause)
            if steps == fails_after:
                raise MemoryError
            steps += 1
            return model.loss(images)

        kept = Checkpoints(out / CHECKPOINT, of, seconds)
        draws = rng.generator(1, "data")
        minimize(loss, model, IMAGES, BUDGET, draws, True, mirror, ema=0.9, kept=kept)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / "weights.safetensors")


def test_a_loss_that_is_not_finite_ends_it_before_a_checkpoint_holds_that(tmp_path):
    model, calls = nn.Conv2d(3, 3, 1), 0

    def loss(images):
        nonlocal calls
        calls += 1
        return model(images).square().mean() * (math.nan if calls == 4 else 1.0)

    kept = Checkpoints(tmp_path / CHECKPOINT, "x", 0)
    with pytest.raises(UserError, match=f"not finite at step 4 of {STEPS}: lower the learning rate"):
        minimize(loss, model, IMAGES, BUDGET, rng.generator(1, "data"), True, mirror, kept=kept)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved["step"] <= 3
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_a_classifier_of_nan_is_not_left_either():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)

    def losses():
        for factor in (1.0, math.nan):
            yield model(torch.ones(2, 3)).square().mean() * factor

    with pytest.raises(UserError, match="not finite at step 2: lower the learning rate"):
        descend(model, losses(), optimizer, schedule, Lines(2, "classifier"))
    assert all(weight.isfinite().all() for weight in model.parameters())


def slowly(_, __, out, ___):
    trained(out, 0.03)


def saved_step(folder):
    path = folder / CHECKPOINT
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def assert_same(folder, other):
    ours, theirs = (load_file(each / "weights.safetensors") for each in (folder, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert points(folder) == points(other)


def points(folder):
    return [(key, value, step) for key, value, _, step in read_journal(folder / JOURNAL)]


def test_what_failed_goes_on_bit_for_bit(tmp_path):
    """Whatever the step, that of an epoch's end and the first among them."""
    whole, out = tmp_path / "whole", tmp_path / "failed"
    whole.mkdir()
    out.mkdir()
    trained(whole, seconds=None)
    for steps in (1, 2, 3, 5):
        with pytest.raises(MemoryError):
            trained(out, fails_after=steps)
    assert saved_step(out) == 11
    trained(out)
    assert_same(out, whole)
    assert [step for key, _, step in points(out) if key == "loss"] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    """SIGTERM, then SIGKILL, in the middle of epochs; weights, codes and curves equal those of an undisturbed run."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    out.mkdir()
    trained(whole, seconds=None)
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start({}, out, 1, [], work=slowly)
        target = saved_step(out) + 3
        while saved_step(out) < target and process.running():
            time.sleep(0.01)
        process.signal(0, number)
        (code,) = process.end()
        if number == signal.SIGTERM:
            assert code == 128 + signal.SIGTERM
            assert "the same command goes on from there" in process.said(0)
        else:
            assert code == -signal.SIGKILL
        assert 0 < saved_step(out) < STEPS
        assert not (out / "weights.safetensors").exists()
    trained(out)
    assert_same(out, whole)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint\.pt belongs to x, not to y; delete it to train from the start"):
        trained(tmp_path, of="y")
    kept = [Checkpoints(tmp_path / CHECKPOINT, {"epochs": epochs, "seed": 1}, 0) for epochs in (5, 6)]
    (tmp_path / CHECKPOINT).unlink()
    for each in kept:
        model = nn.Conv2d(3, 3, 1)
        given = (lambda x, model=model: model(x).square().mean(), model, IMAGES, BUDGET, rng.generator(1), True, mirror)
        if each is kept[0]:
            minimize(*given, kept=each)
        else:
            with pytest.raises(UserError, match=r"belongs to epochs=5, not to epochs=6; delete it"):
                minimize(*given, kept=each)


def test_the_average_of_the_weights_is_the_sum_by_hand():
    """By the closed form: the weights behind each step count by their share times what later steps keep."""

    def run(ema):
        torch.manual_seed(3)
        model, seen = nn.Conv2d(3, 2, 1), []

        def loss(images):
            seen.append(model.weight.detach().double().clone())
            return (model(images) - 1).square().mean()

        minimize(loss, model, IMAGES, BUDGET, rng.generator(1), True, mirror, ema=ema)
        return model.weight.detach().double(), seen

    with torch.random.fork_rng(devices=[]):
        averaged, _ = run(0.3)
        last, seen = run(0.0)
    assert len(seen) == STEPS
    keeps = [min(0.3, (1 + step) / (10 + step)) for step in range(STEPS)]
    shares = [1.0, *(1 - keep for keep in keeps)]
    expected = sum(
        share * float(np.prod(keeps[step:])) * weights
        for step, (share, weights) in enumerate(zip(shares, [*seen, last], strict=True))
    )
    torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-7)
    assert float((averaged - last).abs().max()) > 1e-5
