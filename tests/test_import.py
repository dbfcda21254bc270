"""Released checkpoints become the training that their configuration would have had; what is none is refused whole."""

import os
import pickle
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cells import read_cells
from experiments.pipeline import Cell
from experiments.presets import DIGITS, PRESETS, RELEASED, released
from experiments.trained import models
from tests import small_release
from tests.small_release import DATA, SIZES
from tokenbridge.artifacts import Store, file_hash
from tokenbridge.checkpoints import from_released
from tokenbridge.config import RunConfig, Sample, UserError
from tokenbridge.heads.autoregressive import AutoregressiveHead
from tokenbridge.overrides import build, override
from tokenbridge.train import load_model


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path)


def write(folder, family="tokenbridge", **changes) -> Path:
    path = folder / "checkpoint-last.pth"
    torch.save(small_release.content(family) | changes, path)
    return path


def change(family="tokenbridge", key="model", **changes):
    """The checkpoint's weights under this key with tensors put in, or taken out where they are None."""
    state = small_release.content(family)[key] | changes
    return {key: {name: value for name, value in state.items() if value is not None}}


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
    return [f"data.path={data}", f"data.held_out_path={data}", f"autoencoder.path={folder}"]


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
    drawn = model.head.sample(reference["features"][mask], noise, Sample(head_steps=10, temperature=0.9))
    error = (drawn - reference["sample"]).abs().amax(-1) / reference["sample"].abs().amax(-1)
    assert float(error.max()) < 1e-5
    short = ["train.epochs=1", "train.warmup_epochs=0.5", "train.batch=7"]
    done = call("run", "imagenet256-mar-L", *SIZES, *paths, *short, "--only", "train", cwd=tmp_path)
    assert done.returncode in (0, None), done.stderr
    assert len(list(tmp_path.glob("runs/stages/train-*"))) == 2


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
        ({"train.released": "x"}, "train.released='x' is not valid"),
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


def refused(call, path, *arguments, name="tokenbridge-L", sizes=SIZES):
    done = call("import", path, "--as", name, *sizes, *arguments, cwd=path.parent)
    line = done.stderr.strip()
    assert done.returncode == 2, line
    assert "\n" not in line
    assert line.startswith("tokenbridge: ")
    assert not (path.parent / "runs").exists()
    return line


def test_a_missing_file(call, tmp_path):
    assert "nothing.pth is no file; give the path" in refused(call, tmp_path / "nothing.pth")


def test_a_name_that_is_no_model(call, path):
    assert "tokenbridge-XL is no released model; did you mean tokenbridge-L?" in refused(
        call, path, name="tokenbridge-XL"
    )


def test_a_checkpoint_of_another_size(call, path):
    line = refused(call, path, "backbone.width=36")
    assert "'model' has (32,) for backbone.unconditional, which must be (36,) in this model; correct --as" in line
    assert "head.out_weight" in refused(call, path, "quantizer.levels=17")
    assert "has no value for backbone.encoder.2" in refused(call, path, "backbone.encoder_depth=3")
    assert "which must be absent" in refused(call, path, "backbone.encoder_depth=1")
    assert "has no value for head" in refused(call, path, name="mar-L", sizes=[s for s in SIZES if "levels" not in s])


def test_a_full_size_is_asked_for_and_its_name_is_told(call, tmp_path):
    wide = torch.zeros(1).expand(1000, 768)
    path = write(tmp_path, **change(**{"class_emb.weight": wide}))
    assert "its backbone is that of --as tokenbridge-B: correct that" in refused(call, path, sizes=())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(call, path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "must be a whole checkpoint of torch.save" in refused(call, path)


class Bomb:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_does_not_run(call, tmp_path):
    path = write(tmp_path, extra=Bomb(tmp_path / "ran"))
    line = refused(call, path)
    assert f"asks for {os.mkdir.__module__}.mkdir, which weights do not need; nothing of it was run" in line
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps({"model": Bomb(tmp_path / "ran")}))
    assert "must be a whole checkpoint" in refused(call, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["model", "model_ema"])
def test_no_weights_of_a_kind(call, tmp_path, missing):
    content = small_release.content()
    del content[missing]
    torch.save(content, path := tmp_path / "checkpoint-last.pth")
    assert f"must hold both 'model' and 'model_ema', and {missing!r} is not in it" in refused(call, path)
    torch.save([content], path)
    assert "it holds list" in refused(call, path)
    torch.save(small_release.content() | {missing: None}, path)
    assert f"{missing!r} must be tensors by name" in refused(call, path)


@pytest.mark.parametrize("key", ["model", "model_ema"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra.weight": torch.zeros(1)}, "extra.weight is no weight of a released TokenBridge or MAR model"),
        ({"mask_token": None}, "has no value for backbone.mask_token, which must be (32,)"),
        ({"channel_heads.3.bias": None}, "part 3 of head.out_bias is missing"),
        ({"channel_heads.3.bias": torch.zeros(17)}, "parts of a weight do not go together"),
        ({"channel_heads.03.bias": torch.zeros(16)}, "channel_heads.03.bias is there under another name too"),
        ({"diffusion_pos_embed_learned": torch.zeros(1, 16, 32)}, "is there under another name too"),
        ({"mask_token": torch.full((1, 1, 32), torch.nan)}, "mask_token must be finite floats"),
        ({"mask_token": torch.zeros(1, 1, 32, dtype=torch.int64)}, "mask_token must be finite floats"),
        ({"boundaries": torch.zeros(17)}, "boundaries must be that of quantizer.kind=gaussian, levels=16"),
        ({"channel_mask": torch.zeros(3)}, "channel_mask must be that"),
    ],
)
def test_weights_that_are_not_exactly_the_model_s(call, tmp_path, key, changes, message):
    line = refused(call, write(tmp_path, **change(key=key, **changes)))
    assert message in line
    assert repr(key) in line


def test_buffers_may_lack_in_the_averaged_weights_alone(call, tmp_path):
    none = dict.fromkeys(("boundaries", "channel_mask", "reconstruction_values"))
    path = write(tmp_path, **change(key="model", reconstruction_values=None))
    assert "reconstruction_values must be" in refused(call, path)
    path = write(tmp_path, **change(key="model_ema", **none))
    assert call("import", path, "--as", "tokenbridge-L", *SIZES, cwd=tmp_path).returncode in (0, None)


def test_levels_of_another_kind(call, path):
    assert "must be gaussian, clamped and tensor" in refused(call, path, "quantizer.kind=uniform")
    assert "std_range=2.5; correct" in refused(call, path, "quantizer.std_range=2.5")


def test_a_buffer_that_mar_does_not_have(call, tmp_path):
    path = write(tmp_path, "mar", **change("mar", boundaries=torch.zeros(3)))
    line = refused(call, path, name="mar-L", sizes=[s for s in SIZES if "levels" not in s])
    assert "boundaries must be absent" in line
