"""`tokenbridge speed --minutes` in its dry form: every part on a CPU at a small size, its files and its report."""

import json

import pytest
import torch

from experiments import card
from experiments.presets import preset
from tests.helpers import generators
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.speed import card as parts
from tokenbridge.speed.card import Row, Size
from tokenbridge.speed.card.rows import require_equal
from tokenbridge.speed.models import random_model
from tokenbridge.speed.released import ReleasedSampler

CPU = torch.device("cpu")
DIFFUSION = {"head.kind": "diffusion", "quantizer.kind": "identity", "sample.head_steps": 3, "head.multiplier": 1}


def tiny() -> Size:
    config = override(generators.config(), {"sample.guidance": 2.0, "autoencoder.source": "digits"})
    config = config.model_copy(update={"data": preset("digits").data, "autoencoder": preset("digits").autoencoder})
    config = override(config, {"sample.iterations": 4})
    return Size("tiny", config, override(config, DIFFUSION), (1, 3), (3,), (4,), 1)


def test_every_part_runs_on_a_cpu_and_is_saved_as_it_is_measured():
    saved = []
    rows = parts.measure(tiny(), CPU, 10, lambda rows: saved.append(len(rows)))
    assert saved == list(range(1, len(rows) + 1))
    assert [name for name, _, _ in parts.PARTS] == list(dict.fromkeys(row.part for row in rows))
    assert not [row for row in rows if row.why.startswith("failed")]
    values = {row.name: row.value for row in rows if row.value is not None}
    assert all(value >= 0 for value in values.values())
    for kind in ("TokenBridge", "MAR"):
        assert values[f"{kind}, 3 images, 4 iterations, equal tokens in float32"] == 100
        assert values[f"{kind}, 3 images, 4 iterations, times as fast as released"] > 0
    assert values["greedy tokens that are equal between bfloat16 and float32, random weights"] > 50
    assert values["checkpoint, size"] > 0
    assert {row.why for row in rows if row.value is None} == {
        "a CPU launches nothing",
        "compiled on a GPU alone: a CPU takes longer to compile than to run",
        "measured on a GPU alone",
    }


def test_without_time_each_part_says_so():
    rows = parts.measure(tiny(), CPU, 1e-6, lambda rows: None)
    assert sum("did not fit" in row.why for row in rows) > 5


def test_a_part_that_fails_says_why_and_the_others_go_on(monkeypatch, capsys):
    def broken(size, device, clock):
        yield Row("one", 1.0)
        raise RuntimeError("CUDA error: something\nmore")

    def whole(size, device, clock):
        yield Row("two", 2.0)

    monkeypatch.setattr(parts, "PARTS", (("a", broken, 0.5), ("b", whole, 0.5)))
    rows = parts.measure(tiny(), CPU, 1, lambda rows: None)
    assert [(row.part, row.value) for row in rows] == [("a", 1.0), ("a", None), ("b", 2.0)]
    assert "failed: RuntimeError: CUDA error: something" in rows[1].why
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("changes", [{}, {"sample.guidance": 1.0}, DIFFUSION, DIFFUSION | {"sample.guidance": 1.0}])
def test_the_released_way_gives_the_same_tokens(changes):
    config = override(override(generators.config(), {"sample.guidance": 3.0}), changes)
    model = random_model(config, CPU)
    order, noise = model.draws(config.sample, range(5))
    labels = torch.arange(5) % config.data.classes
    theirs = ReleasedSampler(model, config)(labels, order, noise)
    torch.testing.assert_close(model.sample(labels, order, noise, config.sample), theirs, rtol=1e-4, atol=1e-4)


def test_a_head_that_was_not_released_has_no_released_way():
    config = generators.config("parallel")
    with pytest.raises(UserError, match=r"head\.kind=parallel .* has no released sampler"):
        ReleasedSampler(random_model(config, CPU), config)


def test_unequal_tokens_are_never_timed():
    with pytest.raises(AssertionError, match=r"75\.00% of the tokens are equal, and 97% must be"):
        require_equal(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5]), "x", 0.97)
    assert require_equal(torch.tensor([1.0]), torch.tensor([1.0005]), "x") == 1


@pytest.mark.parametrize(
    ("goal", "value", "missed"),
    [
        ("≥ 5", 4.9, True),
        ("≥ 5", 5.0, False),
        ("≤ 1 s", 1.1, True),
        ("≤ 0", 0.0, False),
        ("", 9.0, False),
        ("≥ 5", None, False),
    ],
)
def test_a_goal_is_missed_on_its_wrong_side(goal, value, missed):
    assert Row("x", value, goal=goal).missed == missed


@pytest.mark.parametrize(
    ("size", "gpu", "message"),
    [
        ("L", False, "--size=L needs a GPU: .* take --size small"),
        ("XL", True, "--size=XL must be one of small, B, L, H"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(size, gpu, message):
    with pytest.raises(UserError, match=message):
        card.size_of(size, gpu)


@pytest.mark.parametrize("name", ["B", "L", "H"])
def test_the_papers_sizes_can_be_measured(name):
    size = card.size_of(name, gpu=True)
    for config in (size.config, size.mar):
        config.require_pair()
        assert config.sample.iterations == 256
    assert (size.config.head.kind, size.mar.head.kind) == ("autoregressive", "diffusion")


def test_the_report_shows_devices_side_by_side(tmp_path):
    def write(name, device, gpu, rows):
        about = {"device": device, "gpu": gpu, "size": "L", "minutes": 8, "torch": "2", "cuda": None, "threads": 1}
        (tmp_path / name).write_text(json.dumps(about | {"rows": [row._asdict() for row in rows]}))

    write("a.json", "card A", False, [Row("x", 2.0, "times", "≥ 5", part="p"), Row("y", why="no time", part="p")])
    text = card.write_report(tmp_path).read_text()
    assert "| p | x | ≥ 5 | 2 times: missed |" in text
    assert card.NO_GPU in text
    write("b.json", "card B", True, [Row("x", 7.0, "times", "≥ 5", part="p")])
    text = card.write_report(tmp_path).read_text()
    assert "| p | x | ≥ 5 | 2 times: missed | 7 times |" in text
    assert "| p | y |  | – (no time) | – |" in text
    assert card.NO_GPU not in text
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(UserError, match=r"c\.json must be a file of tokenbridge speed; move it away"):
        card.write_report(tmp_path)


@pytest.mark.slow
def test_the_dry_form_is_one_command(tmp_path):
    rows, report = card.run(Runtime(device="cpu", threads=1), "small", 0.5, tmp_path / "speed")
    assert not [row for row in rows if row.why.startswith("failed")]
    (path,) = (tmp_path / "speed").glob("*.json")
    assert len(json.loads(path.read_text())["rows"]) == len(rows)
    assert report.read_text().startswith(card.TITLE)
