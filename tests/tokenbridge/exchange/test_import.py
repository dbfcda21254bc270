"""Released checkpoints become the training that their configuration would have had."""

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.pipeline import Cell
from experiments.presets import DIGITS, PRESETS, RELEASED, released
from experiments.trained import models
from tests.helpers import release as small_release
from tests.helpers.release import DATA, SIZES, write
from tokenbridge.config import RunConfig, Sample, UserError
from tokenbridge.exchange.released import from_released
from tokenbridge.model.heads.autoregressive import AutoregressiveHead
from tokenbridge.overrides import build, override
from tokenbridge.stages.train import load_model
from tokenbridge.store.artifacts import Store, file_hash
from tokenbridge.store.runs import read_cells


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path)


def stage_of(store):
    (folder,) = store.root.glob("stages/*")
    return folder, store.manifest(folder.name)


@pytest.mark.parametrize("family", ["tokenbridge", "mar"])
def test_both_sets_of_weights_are_kept_apart(call, tmp_path, family):
    path = write(tmp_path, family)
    done = call("import", path, "--as", f"{family}-L", *SIZES, cwd=tmp_path)
    assert done.returncode in (0, None), done.stderr
    folder, manifest = stage_of(Store(tmp_path / "runs"))
    content = small_release.content(family)
    for name, key in (("model", "model_ema"), ("model_raw", "model")):
        found, expected = load_file(folder / f"{name}.safetensors"), from_released(content[key])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert manifest["kind"] == "train"
    assert manifest["reads"]["released"] == f"sha256:{file_hash(path)[:12]}"
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "metrics.json", "model.safetensors", "model_raw.safetensors"
    }  # fmt: skip
    again = call("import", path, "--as", f"{family}-L", *SIZES, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert f"go on: tokenbridge run imagenet256-{'mar-' if family == 'mar' else ''}" in done.stdout
    assert models(Store(tmp_path / "runs"), f"{family}-L").untrained == ()


@pytest.fixture
def paths(tmp_path):
    """Settings of images and an autoencoder that go with the small weights."""
    data, folder = small_release.images(tmp_path / "images"), small_release.autoencoder(tmp_path / "kl")
    return [
        f"data.path={data}",
        f"data.test_path={data}",
        "autoencoder.source=diffusers",
        f"autoencoder.path={folder}",
    ]


def go_on(call, path, family, paths, *stages):
    """Import, then run the command that this prints; the generator that its samples come from, and the config."""
    printed = call("import", path, "--as", f"{family}-L", *SIZES, *paths, cwd=path.parent).stdout
    words = shlex.split(printed.partition("go on: tokenbridge ")[2])
    done = call(*words, *(word for stage in stages for word in ("--only", stage)), cwd=path.parent)
    assert done.returncode in (0, None), done.stderr
    store = Store(path.parent / "runs")
    (cell,) = read_cells(store).values()
    assert set(cell.stages) == {"latents", "quantizer", "train", *stages}
    assert all(store.finished(id) for id in cell.stages.values())
    config, inputs = build(RunConfig, cell.config), {kind: store.folder(id) for kind, id in cell.stages.items()}
    return load_model(config, inputs, torch.device("cpu")), config


@pytest.mark.slow
def test_sampling_and_the_likelihood_go_on_from_tokenbridge(call, path, paths):
    """The generator gives what the released code gave."""
    model, config = go_on(call, path, "tokenbridge", paths, "sample", "likelihood")
    reference = load_file(DATA / "tokenbridge_reference.safetensors")
    mask, order = reference["mask"].bool(), reference["channel_order"]
    z = model.backbone(reference["dequantized"], mask, reference["labels"])
    torch.testing.assert_close(z, reference["features"], atol=1e-4, rtol=0)
    assert isinstance(model.head, AutoregressiveHead)
    logits = model.head.logits(z[mask], reference["tokens"][mask][:, order])
    torch.testing.assert_close(logits, reference["logits_teacher_forced"], atol=1e-4, rtol=0)
    drawn = model.head.sample(reference["features"][mask], torch.zeros(33, 16), config.sample)
    assert torch.equal(drawn[:, order], reference["greedy_tokens_as_released"])
    for guidance in (1, 3):
        how = Sample(images=3, iterations=5, temperature=0, guidance=guidance)
        tokens = model.sample(reference["labels"], reference["order"], torch.zeros(3, 16, 16), how)
        expected = reference[f"sample_cfg{guidance}"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(model.tokenizer.decode(tokens), expected, atol=1e-5, rtol=0)


def test_sampling_goes_on_from_mar_and_its_preset_trains(call, tmp_path, paths):
    model, _ = go_on(call, write(tmp_path, "mar"), "mar", paths, "sample")
    reference = load_file(DATA / "mar_reference.safetensors")
    mask = reference["mask"].bool()
    z = model.backbone(reference["latents"].flatten(2).transpose(1, 2), mask, reference["labels"])
    torch.testing.assert_close(z, reference["features"], atol=1e-4, rtol=0)
    noise = reference["sample_noise"].transpose(0, 1)
    with torch.no_grad():
        drawn = model.head.sample(reference["features"][mask], noise, Sample(head_steps=10, temperature=0.9))
    error = (drawn - reference["sample"]).abs().amax(-1) / reference["sample"].abs().amax(-1)
    assert float(error.max()) < 1e-5
    short = ["train.epochs=1", "train.warmup_epochs=0.5", "train.batch=7"]
    done = call("run", "imagenet256-mar-L", *SIZES, *paths, *short, "--only", "train", cwd=tmp_path)
    assert done.returncode in (0, None), done.stderr
    assert len(list(tmp_path.glob("runs/stages/train-*"))) == 2


def test_a_file_of_settings_says_where_images_and_autoencoder_are(call, path, paths):
    """Its trainings and samples are none of the release's."""
    sections: dict[str, list[str]] = {"train": ["epochs = 300"], "sample": ["guidance = 7.0"]}
    for key, _, value in (word.partition("=") for word in paths):
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f'{name} = "{value}"')
    text = ['preset = "imagenet256-L"', *(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items())]
    (path.parent / "mine.toml").write_text("\n".join(text))
    configs = []
    for runs, words in (("file", ["mine.toml"]), ("words", paths)):
        done = call("import", path, "--as", "tokenbridge-L", *SIZES, *words, "--runs", runs, cwd=path.parent)
        assert done.returncode in (0, None), done.stderr
        (cell,) = read_cells(Store(path.parent / runs)).values()
        configs.append(cell.config)
    assert configs[0] == configs[1]
    assert configs[0]["data"]["path"] == str(path.parent / "images")


@pytest.mark.parametrize("name", RELEASED)
def test_the_configuration_is_the_preset_but_for_how_it_is_sampled(name):
    family, _, size = name.partition("-")
    base = PRESETS[f"imagenet256-{'mar-' if family == 'mar' else ''}{size}"]
    config = released(name)
    assert config.head.start == "released"
    assert config.backbone == base.backbone
    assert config.head.training_settings() | {"order": 0} == base.head.training_settings() | {"order": 0}
    assert config.quantizer.kind == ("identity" if family == "mar" else "gaussian")
    config.require_pair()


def test_imported_weights_have_an_id_of_their_own_and_change_no_other():
    assert "released" not in DIGITS.train.model_dump()
    base = released("tokenbridge-L")
    ids = {}
    for word in ("sha256:0123456789ab", "sha256:0123456789ac"):
        config = override(base, {"train.released": word})
        (stage,) = Cell("", config, ("train",)).stages()
        assert stage.inputs == ()
        assert Cell("", override(config, {"train.epochs": 900}), ("train",)).stages()[0].id == stage.id
        ids[word] = stage.id
    assert len(set(ids.values())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.released": "x"}, "train.released='x' must have the form"),
        ({"train.released": "sha256:0123456789ab", "train.seed": 1}, "train.seed=1 must be 0 with train.released"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        override(released("mar-L"), settings)


def test_weights_that_are_not_imported_stop_a_run_before_it_begins(call, tmp_path):
    done = call("run", "digits", "train.released=sha256:0123456789ab", cwd=tmp_path)
    assert done.returncode == 2
    assert "run first: tokenbridge import" in done.stderr
    assert not list((tmp_path / "runs").glob("stages/*"))
