import warnings

import pytest
import torch

from tests.helpers.generators import CHANNELS, CLASSES, LEVELS, POSITIONS, config, generator
from tokenbridge.config import CATEGORICAL, HEAD_KINDS, Backbone, Quantizer, Sample, UserError
from tokenbridge.model.backbone import UNCONDITIONAL
from tokenbridge.model.backbone import Backbone as BackboneModel
from tokenbridge.model.generator import Generator
from tokenbridge.model.masking import confidence_noise, guidance_weight, mask_from_order, masked_after
from tokenbridge.tokenizers.scalar import fit

NONE = torch.zeros(8, POSITIONS, 0)  # noise that the loss of a categorical head does not read


def batch(n=8, seed=0):
    own = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, POSITIONS, CHANNELS, generator=own)
    order = torch.stack([torch.randperm(POSITIONS, generator=own) for _ in range(n)])
    return latents, torch.arange(n) % CLASSES, order


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_loss_is_of_the_masked_positions_and_sees_the_others_only(kind):
    model, (latents, labels, order) = generator(kind), batch()
    mask = mask_from_order(order, 4)
    nats = model(latents, labels, mask, NONE)
    assert nats.shape == (8 * 4,)
    assert bool((nats > 0).all())
    elsewhere = latents.clone()
    elsewhere[mask] += 1e-9  # same tokens
    torch.testing.assert_close(model(elsewhere, labels, mask, NONE), nats)
    z = model.backbone(latents, mask, labels)
    hidden = latents.clone()
    hidden[mask] = 99.0
    torch.testing.assert_close(model.backbone(hidden, mask, labels), z)
    assert not torch.allclose(model.backbone(latents, mask, torch.full_like(labels, UNCONDITIONAL)), z)


@pytest.mark.parametrize("kind", CATEGORICAL)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_image_i_depends_on_i_alone(kind, guidance):
    """Same tokens for batches of 1, 7 and 64, whatever the other images are."""
    model, how = generator(kind), Sample(images=64, iterations=4, guidance=guidance, temperature=0.9)
    labels = torch.arange(64) % CLASSES
    order, noise = model.draws(how, range(64))
    together = model.sample(labels, order, noise, how)
    assert int(together.max()) < LEVELS
    for size in (1, 7):
        parts = []
        for first in range(0, 64, size):
            own = range(first, min(first + size, 64))
            parts.append(model.sample(labels[own.start : own.stop], *model.draws(how, own), how))
        assert torch.equal(torch.cat(parts), together)
    assert not torch.equal(model.draws(how.model_copy(update={"seed": 1}), range(64))[1], noise)


@pytest.mark.parametrize("iterations", [1, 2, POSITIONS])
def test_any_number_of_iterations_fills_every_position(iterations):
    model, (_, labels, _) = generator(), batch()
    how = Sample(iterations=iterations)
    order, noise = model.draws(how, range(8))
    noise[:] = 0.999999  # the highest level with any probability: never the 0 that positions start with
    tokens = model.sample(labels, order, noise, how)
    assert bool((tokens > 0).all())


def test_one_position_at_a_time_equals_the_likelihoods_order():
    """Greedy sampling with L iterations picks, at every position, the level that log_prob's conditionals prefer."""
    model, (_, labels, _) = generator(), batch()
    how = Sample(iterations=POSITIONS, temperature=0)
    order, noise = model.draws(how, range(8))
    tokens = model.sample(labels, order, noise, how)
    latents = model.tokenizer.decode(tokens)
    best = model.log_prob(latents, labels, order)
    first = int(order[0, -1])  # the position revealed first: any other level of its first channel is less likely
    c = int(model.head.order[0])
    for level in range(LEVELS):
        other = tokens[:1].clone()
        other[0, first, c] = level
        z = model.backbone(latents[:1], torch.ones(1, POSITIONS, dtype=torch.bool), labels[:1])[0, [first]]
        logits = model.head.logits(z, other[0, [first]][:, model.head.order])[0, 0]
        assert logits[tokens[0, first, c]] >= logits[level]
    assert bool(torch.isfinite(best).all())


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_the_density_of_a_position_integrates_to_one(kind):
    """Channels 0 and 1, over the box between the calibration extremes, by midpoint sums on a fine grid."""
    model = generator(kind, order=(0, 1, 2, 3, 4))
    widths = model.tokenizer.bin_widths()
    low, high = model.tokenizer.extremes
    z = torch.randn(1, 14, generator=torch.Generator().manual_seed(3))
    axis = [low[c] + (torch.arange(400) + 0.5) / 400 * (high[c] - low[c]) for c in (0, 1)]
    a, b = torch.meshgrid(*axis, indexing="ij")
    rest = torch.zeros(160_000, 3)
    tokens = model.tokenizer.encode(torch.cat([a.reshape(-1, 1), b.reshape(-1, 1), rest], dim=1))
    pairs, index = tokens[:, :2].unique(dim=0, return_inverse=True)
    with torch.no_grad():
        target = torch.cat([pairs, tokens[:1, 2:].expand(len(pairs), -1)], dim=1)
        log = (
            model.head.logits(z.expand(len(pairs), -1), target)
            .log_softmax(-1)[:, :2]
            .gather(2, pairs[..., None])
            .sum((1, 2))
        )
    density = log.exp()[index] / (widths[0][tokens[:, 0]] * widths[1][tokens[:, 1]])
    cell = (high[0] - low[0]) * (high[1] - low[1]) / 160_000
    assert float(density.sum() * cell) == pytest.approx(1, abs=0.02)


def test_confidence_zero_is_the_random_order_and_more_prefers_what_is_likely():
    model, labels = generator(), torch.arange(64) % CLASSES
    found = {}
    for confidence in (0.0, 1e-9, 30.0):
        how = Sample(iterations=4, confidence=confidence, temperature=0)
        order, noise = model.draws(how, range(64))
        found[confidence] = model.sample(labels, order, noise, how)
    assert torch.equal(found[0.0], found[1e-9])
    assert not torch.equal(found[0.0], found[30.0])


def test_confidence_reveals_the_most_likely_position_first():
    """With great strength and one position an iteration, the first revealed is the one whose token is most likely."""
    model, labels = generator(), torch.arange(64) % CLASSES
    how = Sample(iterations=POSITIONS, confidence=1e6, temperature=0)
    order, noise = model.draws(how, range(64))
    seen = []
    features = model._features
    model._features = lambda tokens, known, *rest, **more: (seen.append(known), features(tokens, known, *rest, **more))[
        1
    ]
    model.sample(labels, order, noise, how)
    nothing = torch.ones(64, POSITIONS, dtype=torch.bool)
    z = model.backbone(torch.zeros(64, POSITIONS, CHANNELS), nothing, labels).flatten(0, 1)
    greedy = model.head.sample(z, noise[:, 0].flatten(0, 1), how)
    likely = model.head.log_prob(z, greedy).view(64, POSITIONS).argmax(1)
    assert seen[0].shape == (64, 0)
    assert torch.equal(seen[1][:, 0], likely)


def by_masks(model, labels, order, noise, how):
    """Sampling by its definition: all features of all positions, with the label and without, chosen by masks."""
    tokens = torch.zeros(*order.shape, model.tokenizer.channels, dtype=model.tokenizer.dtype)
    mask, masked = torch.ones_like(order, dtype=torch.bool), model.positions
    gumbel = confidence_noise(order)
    for step, left in enumerate(masked_after(model.positions, how.iterations)):
        embedded, weight = (
            model.tokenizer.decode(tokens),
            guidance_weight("linear", how.guidance, model.positions, left),
        )
        z = model.backbone(embedded, mask, labels)
        free = model.backbone(embedded, mask, torch.full_like(labels, UNCONDITIONAL))
        reveal = mask & ~mask_from_order(order, left)
        if how.confidence:
            drawn = model.head.sample(z[mask], noise[:, step][mask], how, free[mask], weight)
            believed = model.head.mixed(z[mask], how, free[mask], weight)[0]
            score = torch.full(mask.shape, -torch.inf)
            score[mask] = (
                model.head.log_prob(believed, drawn) / model.tokenizer.channels * how.confidence + gumbel[mask]
            )
            reveal = torch.zeros_like(mask).scatter_(1, score.topk(masked - left, dim=1).indices, True)
            tokens[reveal] = drawn[reveal[mask]]
        else:
            tokens[reveal] = model.head.sample(z[reveal], noise[reveal], how, free[reveal], weight)
        mask, masked = mask & ~reveal, left
    return tokens


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("images", [1, 2, 17])
def test_sampling_by_index_gives_what_masks_give(kind, images):
    """Fewer images than classes and more, guided, and by confidence where the head has a likelihood."""
    model = generator(kind)
    for how in (Sample(iterations=4, guidance=2.5, head_steps=3), Sample(iterations=9, guidance=0.5, head_steps=3)):
        for confidence in (0.0, 2.0) if HEAD_KINDS[kind].density else (0.0,):
            how = how.model_copy(update={"confidence": confidence})
            labels = torch.arange(images) % CLASSES
            order, noise = model.draws(how, range(images))
            with torch.no_grad():
                expected = by_masks(model, labels, order, noise, how)
            tokens = model.sample(labels, order, noise, how)
            assert tokens.dtype == expected.dtype
            near = 0 if model.tokenizer.levels else 1e-3  # random weights magnify the order of sums
            torch.testing.assert_close(tokens, expected, rtol=near, atol=near)


def test_features_of_wanted_positions_are_those_of_all():
    model, (latents, labels, order) = generator(), batch()
    for masked, wanted in ((POSITIONS, 1), (4, 2), (1, 1), (5, 5)):
        seen, at = order[:, masked:], order[:, :wanted]
        z = model.backbone.at(latents, seen, labels)
        found = model.backbone.at(latents, seen, labels, at)
        torch.testing.assert_close(found, z[torch.arange(8)[:, None], at], rtol=1e-5, atol=1e-5)


def test_where_guidance_weighs_one_there_is_one_pass(monkeypatch):
    """No image is computed without its label then."""
    model, labels = generator(), torch.arange(2)
    asked = []
    features = model._features
    monkeypatch.setattr(
        model, "_features", lambda *args, guided: (asked.append(guided), features(*args, guided=guided))[1]
    )
    for guidance, schedule in ((3.0, "linear"), (1.0, "linear"), (3.0, "constant"), (1.0, "constant")):
        how = Sample(iterations=2, guidance=guidance, guidance_schedule=schedule)
        model.sample(labels, *model.draws(how, range(2)), how)
    assert asked == [True, True, False, False, True, True, False, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_sampling_never_waits_for_the_gpu(kind):
    """After a first run, which may prepare constants, nothing synchronizes; the tokens are those of the CPU's way."""
    model, how = generator(kind).cuda(), Sample(iterations=4, guidance=2.5, head_steps=3)
    model.tokenizer.cuda()
    labels = (torch.arange(5) % CLASSES).cuda()
    order, noise = (x.cuda() for x in model.draws(how, range(5)))
    expected = model.sample(labels, order, noise, how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = model.sample(labels, order, noise, how)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_guidance_on_logits_and_features_differ_and_agree_without_guidance(kind):
    model, labels = generator(kind), torch.arange(32) % CLASSES
    tokens = {}
    for on in ("features", "logits"):
        for guidance in (1.0, 4.0):
            how = Sample(iterations=4, guidance=guidance, guidance_on=on, guidance_schedule="constant")
            tokens[on, guidance] = model.sample(labels, *model.draws(how, range(32)), how)
    assert torch.equal(tokens["features", 1.0], tokens["logits", 1.0])
    assert not torch.equal(tokens["features", 4.0], tokens["logits", 4.0])


def test_continuous_tokens_need_a_head_for_them():
    c = config().model_copy(update={"quantizer": Quantizer(kind="identity")})
    with pytest.raises(UserError, match="choose a quantizer"):
        Generator(c, fit(c.quantizer, torch.randn(9, CHANNELS)), tuple(range(CHANNELS)))


def reference_features(model, heads, x):
    """Blocks by the definition of attention (arXiv 1706.03762, eq. 1), a head at a time; heads: of encoder, decoder."""

    def block(part, h, count):
        width = h.shape[-1] // count
        q, k, v = part.attention.qkv(part.norm1(h)).chunk(3, -1)
        mixed = []
        for head in range(count):
            own = slice(head * width, (head + 1) * width)
            weight = (q[..., own] @ k[..., own].transpose(1, 2) / width**0.5).softmax(-1)
            mixed.append(weight @ v[..., own])
        h = h + part.attention.project(torch.cat(mixed, -1))
        return h + part.mlp(part.norm2(h))

    for part in model.encoder:
        x = block(part, x, heads[0])
    for part in model.decoder:
        x = block(part, x, heads[1])
    return x


@pytest.mark.parametrize("heads", [(6, 3), (3, 6), (6, None)])
def test_the_decoder_may_have_heads_of_its_own(heads):
    c = Backbone(
        width=12, encoder_depth=2, decoder_depth=3, heads=heads[0], decoder_heads=heads[1], class_tokens=1,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = BackboneModel(c, 5, 3, 2).eval(), torch.randn(2, 6, 12)
    with torch.no_grad():
        found = model._run(model.decoder, model._run(model.encoder, x))
        expected = reference_features(model, (heads[0], heads[1] or heads[0]), x)
        other = reference_features(model, (heads[0], 2), x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, other, atol=1e-3)
