"""What trainings minimize beside the squared error, by formulas, autograd and the libraries."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet

from tests.helpers.scorers import pictures, write_pictures
from tests.tokenbridge.autoencoders.test_training import IMAGES, Quantized, points
from tokenbridge import rng
from tokenbridge.autoencoders import losses
from tokenbridge.autoencoders.losses import Criterion, PatchDiscriminator, Recipe
from tokenbridge.autoencoders.train import Budget, minimize, mirror
from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import Data, UserError
from tokenbridge.metrics.images import Lpips
from tokenbridge.metrics.networks import ClassifierDistance
from tokenbridge.metrics.train_classifier import train_own_classifier
from tokenbridge.store.artifacts import CHECKPOINT


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """File of an AlexNet with random weights."""
    path = tmp_path_factory.mktemp("network") / "alexnet.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.save({f"features.{key}": value for key, value in alexnet().features.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """A folder of images of two classes, 8 pixels, and that of a classifier of them."""
    root = tmp_path_factory.mktemp("classified")
    for seed, name in enumerate("ab"):
        write_pictures(root / "images" / name, pictures(12, seed, size=8))
    data = Data(source="folder", path=str(root / "images"), classes=2, image_size=8, image_channels=3)
    (root / "classifier").mkdir()
    train_own_classifier(root / "classifier", data, "mine", 2, 0, 6)
    return root, data


def pair(size, seed=0):
    draws = torch.Generator().manual_seed(seed)
    decoded, images = torch.rand(2, 5, 3, size, size, generator=draws) * 2 - 1
    return decoded.requires_grad_(), images


def test_hinge_losses_are_those_of_the_formula():
    """By loops over the patches: max(0, 1 − D(x)) and max(0, 1 + D(x̂)), halved; −D(x̂)."""
    real, decoded = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 2
    first = [max(0.0, 1 - value) for value in real.flatten().tolist()]
    second = [max(0.0, 1 + value) for value in decoded.flatten().tolist()]
    expected = 0.5 * (sum(first) / 12 + sum(second) / 12)
    assert losses.discriminator_loss(real, decoded).item() == pytest.approx(expected, rel=1e-6)
    assert losses.generator_loss(decoded).item() == pytest.approx(-sum(decoded.flatten().tolist()) / 12, rel=1e-5)


def test_the_adaptive_weight_is_the_ratio_of_gradients_by_differences():
    """Both gradients by central differences of a last layer, in float64."""
    draws = torch.Generator().manual_seed(2)
    inputs = torch.randn(7, 3, generator=draws, dtype=torch.float64)
    last = nn.Parameter(torch.randn(2, 3, generator=draws, dtype=torch.float64))

    def terms(weights):
        outputs = inputs @ weights.T
        return outputs.square().mean(), -(outputs.tanh() * 0.01).mean()

    def norm(which):
        slopes = []
        for index in np.ndindex(2, 3):
            move = torch.zeros(2, 3, dtype=torch.float64)
            move[index] = 1e-6
            ends = [float(terms(last.detach() + sign * move)[which]) for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / 2e-6)
        return float(np.linalg.norm(slopes))

    weight = losses.adaptive_weight(*terms(last), last)
    assert not weight.requires_grad
    assert float(weight) == pytest.approx(norm(0) / (norm(1) + 1e-4), rel=1e-5)
    flat = last.sum() * 0
    assert float(losses.adaptive_weight(1e9 * terms(last)[0], flat, last)) == losses.MOST_WEIGHT


def test_the_distance_that_is_minimized_is_the_sum_of_its_terms(network):
    """Of a decoder of one layer, with autograd by hand for the ratio."""
    decoder, size = nn.Conv2d(3, 3, 1), 32
    with torch.no_grad():
        images = pair(size)[1]
    inputs = pair(size, 3)[0].detach()
    lpips = Lpips(network, size)
    recipe = Recipe(0.7, lpips, 0.5, 1)
    criterion = Criterion(recipe, decoder.weight, 3, size, 9, 0)
    values = [criterion(decoder(inputs), images) for _ in range(2)]  # before the discriminator begins, and after
    decoded = decoder(inputs)
    numel = 3 * size**2
    squared = (decoded - images).square().mean()
    with torch.no_grad():
        bytes_like = _LPIPS(net="alex", pnet_rand=True)
        bytes_like.load_state_dict(lpips.model.state_dict())
        theirs = bytes_like(decoded, images).mean()
    first = (squared + 0.7 * lpips.distances(decoded, images).mean()) * numel / (2 * 0.05**2)
    torch.testing.assert_close(lpips.distances(decoded, images).mean().detach(), theirs)
    torch.testing.assert_close(values[0], first)
    assert criterion.discriminator
    said = -criterion.discriminator(decoded).mean()
    gradients = [torch.autograd.grad(x, decoder.weight, retain_graph=True)[0].norm() for x in (first / numel, said)]
    weight = float(gradients[0] / (gradients[1] + 1e-4))
    assert float(criterion.terms["adaptive_weight"]) == pytest.approx(weight, rel=1e-3)
    assert values[1].item() == pytest.approx((first + 0.5 * weight * said * numel).item(), rel=1e-3)
    assert float(criterion.terms["squared_error"]) == pytest.approx(squared.item(), rel=1e-5)
    assert float(criterion.terms["perceptual"]) == pytest.approx(float(theirs), rel=1e-4)


def test_lpips_with_gradients_is_that_of_the_measure(network):
    """Of bytes: what is minimized is what the reconstruct stage measures with torchmetrics."""
    images = torch.from_numpy(pictures(2, size=32)), torch.from_numpy(pictures(2, 9, size=32))
    lpips = Lpips(network, 32)
    signed = [x.float() / 127.5 - 1 for x in images]
    signed[0].requires_grad_()
    distances = lpips.distances(*signed)
    torch.testing.assert_close(distances.detach(), lpips(*images))
    distances.sum().backward()
    assert signed[0].grad is not None
    assert float(signed[0].grad.abs().max()) > 0


def test_the_classifier_s_distance_is_that_of_its_layers(classified):
    """By hooks on the layers and numpy; zero of an image to itself."""
    root, data = classified
    distance = ClassifierDistance(root / "classifier", data)
    decoded, images = (x.detach() for x in pair(8))
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *given: seen.append(given[-1].numpy()))
        for layer in distance.model.body
        if isinstance(layer, nn.SiLU)
    ]
    expected = []
    for x in (decoded, images):
        distance.model.body(x)
    for hook in hooks:
        hook.remove()
    half = len(seen) // 2
    for first, second in zip(seen[:half], seen[half:], strict=True):
        units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
        expected.append(((units[0] - units[1]) ** 2).sum(1).mean((1, 2)))
    np.testing.assert_allclose(distance.distances(decoded, images).numpy(), np.mean(expected, 0), rtol=1e-4)
    assert float(distance.distances(images, images).abs().max()) == 0
    with pytest.raises(UserError, match="is a classifier of image_size=8, and the images have 16; train another"):
        ClassifierDistance(root / "classifier", data.model_copy(update={"image_size": 16}))


def fitted(recipe, folder=None, epochs=6, loss_fails=None):
    """The small quantized autoencoder after a training."""
    budget = Budget(epochs, 7, 3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Quantized()
        criterion = Criterion(recipe, model.body.decoder.conv_out.weight, 3, 8, budget.steps(23), 0)
        done = 0

        def loss(images):
            nonlocal done
            if done == loss_fails:
                raise MemoryError
            done += 1
            latents = model.body.encode(images).latent_dist.mean
            return criterion(model.body.decode(latents).sample, images) / images[0].numel()

        kept = Checkpoints(folder / CHECKPOINT, "x", 0) if folder else None
        minimize(
            loss, model, IMAGES, budget, rng.generator(1), True, mirror, ema=recipe.ema, kept=kept, criterion=criterion
        )
    return model.body


def test_a_perceptual_training_lowers_the_perceptual_distance(classified):
    """More than the squared error alone does, on the images of the training."""
    root, data = classified
    distance = ClassifierDistance(root / "classifier", data)
    images = torch.from_numpy(IMAGES.pixels) / 127.5 - 1
    distances = []
    for weight in (0.0, 5.0):
        body = fitted(Recipe(weight, distance))
        with torch.no_grad():
            decoded = body.decode(body.encode(images).latent_dist.mean).sample
            distances.append(float(distance.distances(decoded, images).mean()))
    assert distances[1] < 0.95 * distances[0]


def test_an_adversarial_training_goes_on_bit_for_bit(tmp_path):
    """The discriminator, its optimizer and its start are in the checkpoint; the curves tell its terms."""
    recipe, folders = Recipe(adversarial=0.5, adversarial_start=4, ema=0.9), (tmp_path / "whole", tmp_path / "failed")
    for folder in folders:
        folder.mkdir()
    whole = fitted(recipe, folders[0], 3)
    for steps in (2, 4):  # before it begins, and after
        with pytest.raises(MemoryError):
            fitted(recipe, folders[1], 3, loss_fails=steps)
    again = fitted(recipe, folders[1], 3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert points(folders[0]) == points(folders[1])
    begun = {key: min(step for name, _, step in points(folders[0]) if name == key) for key, _, _ in points(folders[0])}
    assert begun == dict.fromkeys(("loss", "squared_error", "learning_rate"), 1) | dict.fromkeys(
        ("adversarial", "adaptive_weight", "discriminator"), 5
    )


@pytest.mark.parametrize("size", [8, 12, 16, 28, 32, 64])
def test_a_discriminator_sees_patches_of_each_size(size):
    said = PatchDiscriminator(3, size)(torch.zeros(2, 3, size, size))
    assert said.shape[:2] == (2, 1)
    assert said.shape[2] >= 2


def test_an_adversarial_term_that_cannot_be_is_refused():
    last = nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match="adversarial needs images of 8 pixels at least, and has 4; leave it out"):
        Criterion(Recipe(adversarial=1.0), last, 3, 4, 9, 0)
    with pytest.raises(UserError, match="adversarial_start=9 must be less than 9, the training's steps"):
        Criterion(Recipe(adversarial=1.0, adversarial_start=9), last, 3, 8, 9, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--perceptual", 1], "--perceptual 1 needs a network: give --lpips-weights or --classifier"),
        (["--adversarial-start", 3], "--adversarial-start 3 goes with --adversarial; give its weight too"),
        (["--classifier", "images"], "classifier.safetensors must be a whole file of `tokenbridge train-classifier`"),
        (["--lpips-weights", "none.pth"], "--lpips-weights=none.pth must be a file; name torchvision's vgg16"),
        (["--adversarial", 1, "--adversarial-start", 99], "adversarial_start=99 must be less than 2"),
    ],
)
def test_losses_that_cannot_be_are_refused(call, classified, tmp_path, words, message):
    (tmp_path / "images").symlink_to(classified[0] / "images")
    done = call("train-autoencoder", "images", "--epochs", 2, "--out", "own", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "own").exists()


def test_the_card_tells_losses_and_measures_by_their_networks(call, classified, tmp_path, monkeypatch):
    """What is interrupted goes on by the same command; another one is refused, in a line."""
    (tmp_path / "images").symlink_to(classified[0] / "images")
    words = ["train-autoencoder", "images", "--stride", 2, "--classifier", classified[0] / "classifier", "--perceptual",
             0.5, "--adversarial", 0.1, "--ema", 0.5, "--out", "own", "--batch", 5]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("tokenbridge.metrics.autoencoder_quality.strip", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(*words, "--epochs", 2, cwd=tmp_path)
    before = load_file(tmp_path / "own" / "diffusion_pytorch_model.safetensors")
    assert (tmp_path / "own" / CHECKPOINT).exists()  # the training is kept
    other = call(*words, "--epochs", 3, cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "own/checkpoint.pt belongs to epochs=2" in other.stderr
    done = call(*words, "--epochs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "own" / CHECKPOINT).exists()
    after = load_file(tmp_path / "own" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    card = json.loads((tmp_path / "own" / "card.json").read_text())
    assert card["perceptual_by"]["network"] == "classifier mine"
    assert card["networks"] == [card["perceptual_by"]]
    steps = 2 * (card["train_images"] // 5)
    assert {key: card[key] for key in ("perceptual", "adversarial", "adversarial_start", "ema")} == {
        "perceptual": 0.5, "adversarial": 0.1, "adversarial_start": steps // 2, "ema": 0.5,
    }  # fmt: skip
    assert card["compared"]["fd_own"] >= 0
    assert "fd_own" in card["compared_by"]
    assert "lpips_vgg" not in card["compared_by"]
    assert "  fd_own of reconstructions" in done.stdout
    assert {key for key, _, _ in points(tmp_path / "own")} >= {"loss", "squared_error", "perceptual", "discriminator"}
