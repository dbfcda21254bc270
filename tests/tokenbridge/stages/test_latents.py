"""The store of latents: its types, mirror images, shards that survive a kill, processes that share it, checksums."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.pipeline import Cell
from tests.helpers.images import SHARD, config_of, make_images
from tests.tokenbridge.autoencoders.test_frozen import save_tiny
from tokenbridge.autoencoders.sources import autoencoder_of, load_autoencoder
from tokenbridge.config import Autoencoder, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.data.latents import Latents, stored_bytes, to_grid, verify
from tokenbridge.model.batches import Draws
from tokenbridge.overrides import override
from tokenbridge.stages import latents
from tokenbridge.store.artifacts import TRANSIENT, Store
from tokenbridge.store.runs import read_classes

RUNTIME = Runtime(threads=1, batch=3)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(latents, "SHARD", SHARD)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images") / "all")


def encode(out, images, *settings):
    out.mkdir(exist_ok=True)
    latents.run(config_of(images, *settings), {}, out, RUNTIME)
    return Latents(out)


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "SHARD", SHARD)
        return encode(tmp_path_factory.mktemp("plain"), images)


def test_the_store_is_one_array_a_split(plain, images):
    assert sorted(path.name for path in plain.folder.iterdir() if path.name not in TRANSIENT) == [
        "checksums.json", "classes.json", "examples.npz", "stats.json", "test_labels.npy", "test_moments.npy",
        "train_labels.npy", "train_moments.npy", "validation_labels.npy", "validation_moments.npy",
    ]  # fmt: skip
    assert verify(plain.folder) == 20
    assert read_classes(plain.folder) == ["c0", "c1"]
    sums = json.loads((plain.folder / "checksums.json").read_text())["arrays"]["train_moments.npy"]
    assert [(each["start"], each["stop"]) for each in sums] == [(0, 4), (4, 8), (8, 12)]
    config = config_of(images)
    pixels = torch.from_numpy(data.stack(data.load(config.data, "train"))[0])
    expected = load_autoencoder(config.autoencoder).moments(pixels)
    torch.testing.assert_close(plain.read("train", slice(None)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_and_mirror_images(plain, images, tmp_path, dtype):
    settings = (f"latents.dtype={dtype}", "latents.flip=true")
    store = encode(tmp_path / "store", images, *settings)
    whole, kind = plain.read("train", slice(None)), getattr(torch, dtype)
    index = np.array([7, 0, 11])
    assert torch.equal(store.read("train", slice(None)), whole.to(kind))
    assert torch.equal(store.read("train", index), whole[index].to(kind))
    assert torch.equal(store.read("test", index % 6), plain.read("test", index % 6).to(kind))
    config = config_of(images, *settings)
    pixels = torch.from_numpy(data.stack(data.load(config.data, "train"))[0])
    mirrored = load_autoencoder(config.autoencoder).moments(pixels.flip(-1))
    found = store.read("train", index, np.array([1, 0, 1])).float()
    expected = torch.stack([mirrored[7], whole[0], mirrored[11]])
    assert not torch.allclose(mirrored, whole, atol=0.1)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    for mine, exact in zip(store.posterior("train", index), plain.posterior("train", index), strict=True):
        torch.testing.assert_close(mine, exact, rtol=0.03, atol=0.03)
    assert store.flips
    assert verify(store.folder) == 20


@pytest.mark.parametrize("settings", [(), ("latents.dtype=bfloat16",), ("latents.dtype=float16", "latents.flip=true")])
def test_bytes_are_known_before(images, plain, tmp_path, settings):
    folder = encode(tmp_path / "store", images, *settings).folder if settings else plain.folder
    counted = stored_bytes(config_of(images, *settings), {"train": 12, "validation": 2, "test": 6})
    assert counted == sum(path.stat().st_size for path in folder.glob("*.npy"))


def test_training_draws_one_of_both(images, plain, tmp_path):
    """By seed, step and index alone; all other draws are those of a store without mirror images."""
    config = config_of(images, "latents.flip=true", "train.batch=12", "train.label_drop=0.5")
    both = encode(tmp_path / "both", images, "latents.flip=true")
    draws, once = Draws(config.train, both), Draws(config.train, plain)
    flips = np.concatenate([draws._mirrored(step, range(12)) for step in range(40)])
    assert 0.4 < flips.mean() < 0.6
    batch, unflipped = draws.batch(5), once.batch(5)
    same = (batch.latents == unflipped.latents).flatten(1).all(1).numpy()
    assert np.array_equal(same, draws._mirrored(5, range(12)) == 0)
    assert torch.equal(batch.mask, unflipped.mask)
    assert torch.equal(batch.labels, unflipped.labels)
    part = draws.batch(5, range(1, 12, 3))
    assert torch.equal(part.latents, batch.latents[1::3])
    other = config.train.model_copy(update={"seed": 1})
    assert not np.array_equal(Draws(other, both)._mirrored(5, range(12)), draws._mirrored(5, range(12)))


def test_an_error_keeps_finished_shards_and_nothing_else(tmp_path, capsys):
    images = make_images(tmp_path / "images")
    config = config_of(images)
    last = data.load(config.data, "train").places[-1]
    good = last.read_bytes()
    whole = encode(tmp_path / "whole", images)
    last.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as an image"):
        encode(tmp_path / "out", images)
    notes = tmp_path / "out" / "shards" / "train_moments"
    assert sorted(path.name for path in notes.iterdir()) == ["0.json", "1.json"]
    before = {path.name: path.stat().st_mtime_ns for path in notes.iterdir()}
    moments = np.lib.format.open_memmap(tmp_path / "out" / "train_moments.npy", mode="r+")
    moments[5] += 1  # what a failing disk does
    moments.flush()
    with pytest.raises(UserError, match="cannot be read as an image"):
        encode(tmp_path / "out", images)
    assert "has lost rows 4 to 7; they are made again" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in notes.iterdir()}
    assert after["0.json"] == before["0.json"]
    assert after["1.json"] > before["1.json"]
    last.write_bytes(good)
    assert torch.equal(encode(tmp_path / "out", images).read("train", slice(None)), whole.read("train", slice(None)))
    assert verify(tmp_path / "out") == 20


def test_an_error_before_the_first_shard_leaves_nothing(tmp_path):
    images = make_images(tmp_path / "images")
    data.load(config_of(images).data, "train").places[0].write_bytes(b"broken")
    store = Store(tmp_path / "runs")
    with pytest.raises(UserError, match="cannot be read"), store.writing("latents-1", {}, resumable=True) as out:
        encode(out, images)
    assert list((tmp_path / "runs" / "stages").iterdir()) == []


@pytest.fixture
def copy(images, tmp_path):
    (stages := tmp_path / "runs" / "stages").mkdir(parents=True)
    with Store(tmp_path / "runs").writing("latents-1", {}, resumable=True) as out:
        encode(out, images)
    return stages / "latents-1"


def test_damage_is_found(call, copy, tmp_path):
    done = call("verify-latents", cwd=tmp_path)
    assert done.stdout == "runs/stages/latents-1: 20 images as they were written\n"
    content = bytearray((copy / "train_moments.npy").read_bytes())
    content[-7] ^= 1
    (copy / "train_moments.npy").write_bytes(content)
    done = call("verify-latents", cwd=tmp_path)
    assert done.returncode == 2
    assert "train_moments.npy is damaged (rows 8 to 11 are not what was written); delete runs/stages/la" in done.stderr
    damaged = Latents(copy)
    assert len(damaged.read("train", np.array([7, 0, 3]))) == 3
    for index in (np.array([0, 9]), slice(None)):
        with pytest.raises(UserError, match=r"rows 8 to 11 are not what was written"):
            damaged.read("train", index)
    (copy / "train_moments.npy").write_bytes(content[:3000])
    for read in (verify, lambda folder: Latents(folder).posterior_mean("train")):
        with pytest.raises(UserError, match=r"train_moments\.npy is damaged \(mmap length is greater"):
            read(copy)


def test_latents_without_checksums(copy):
    (copy / "checksums.json").unlink()
    with pytest.raises(UserError, match="without checksums"):
        verify(copy)


def test_damaged_labels_and_statistics_are_found(copy):
    """Also without the manifest's checksums: what is left is an array of another type, or no statistics."""
    labels, stats = copy / "test_labels.npy", copy / "stats.json"
    kept = labels.read_bytes(), stats.read_text()
    np.save(labels, 1 - np.load(labels))
    stats.write_text(kept[1].replace("0.", "1.", 1))
    for read in (verify, lambda folder: Latents(folder).labels("test")):
        with pytest.raises(UserError, match=r"(labels\.npy|stats\.json) is damaged \(it is not what was written"):
            read(copy)
    (copy / "manifest.json").unlink()
    stats.write_text(kept[1])
    for wrong in (np.zeros(6), np.zeros(5, np.int64), np.array([None] * 6, object)):
        np.save(labels, wrong)
        with pytest.raises(UserError, match=r"labels\.npy is damaged .*; delete .*latents-1 and run again"):
            Latents(copy).labels("test")
    for cut in (0, 1, 20, 100, 130):
        labels.write_bytes(kept[0][:cut])
        with pytest.raises(UserError, match=r"labels\.npy is damaged .*; delete .*latents-1 and run again"):
            Latents(copy).labels("test")
    for wrong in ("[]", "{}", "nul", ""):
        stats.write_text(wrong)
        with pytest.raises(UserError, match=r"stats\.json .*; delete .*latents-1 and run again"):
            Latents(copy)


def test_latents_of_before_manifests_had_checksums(copy):
    from tokenbridge.store.artifacts import file_hash, read_json, write_json

    manifest, sums = read_json(copy / "manifest.json"), read_json(copy / "checksums.json")
    del manifest["checksums"]
    write_json(copy / "manifest.json", manifest)
    names = ("train_labels.npy", "test_labels.npy", "validation_labels.npy")
    write_json(copy / "checksums.json", sums | {"files": {name: file_hash(copy / name) for name in names}})
    assert verify(copy) == 20
    np.save(copy / names[1], 1 - np.load(copy / names[1]))
    with pytest.raises(UserError, match=r"test_labels\.npy is damaged"):
        Latents(copy).labels("test")


def test_values_that_float16_cannot_hold(images, tmp_path):
    model = load_autoencoder(Autoencoder()).model
    with torch.no_grad():
        model.quant_conv.weight *= 1e6
    model.save_pretrained(tmp_path / "far")
    settings = ("autoencoder.source=diffusers", f"autoencoder.path={tmp_path / 'far'}")
    with pytest.raises(UserError, match=r"train images 0 to 2 .*latents\.dtype=float16 cannot hold them; take bfloat1"):
        encode(tmp_path / "half", images, *settings, "latents.dtype=float16")
    assert list((tmp_path / "half").iterdir()) == []
    assert encode(tmp_path / "brain", images, *settings, "latents.dtype=bfloat16").stats["images"] == 12


STYLES = {
    "SD": {"latent_channels": 4, "scaling_factor": 0.18215},
    "FLUX": {
        "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
        "use_quant_conv": False, "use_post_quant_conv": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_the_autoencoders_own_scale_and_shift(images, tmp_path, style):
    """Unit latents are (latent - shift) * scale, and images are decoded from latent / scale + shift."""
    own, channels = STYLES[style], STYLES[style]["latent_channels"]
    save_tiny(tmp_path / "vae", in_channels=1, out_channels=1, **own)
    settings = [
        "autoencoder.source=diffusers", f"autoencoder.path={tmp_path / 'vae'}", f"autoencoder.channels={channels}",
        "autoencoder.stride=2",
    ]  # fmt: skip
    store = encode(tmp_path / "own", images, *settings, "latents.scale=autoencoder")
    shift = own.get("shift_factor", 0.0)
    assert (store.scale, store.stats["shift"]) == (own["scaling_factor"], shift)
    found = encode(tmp_path / "found", images, *settings)
    latent = found.posterior_mean("train") / found.scale
    torch.testing.assert_close(store.posterior_mean("train"), (latent - shift) * store.scale, rtol=1e-4, atol=1e-5)
    unit = found.posterior_sample("train", torch.Generator().manual_seed(0))
    assert float(unit.std()) == pytest.approx(1, abs=0.1)
    config = config_of(images, *settings, "latents.scale=autoencoder")
    frozen = autoencoder_of(config, {}, "cpu")
    decoded = frozen.decode(to_grid(store.posterior_mean("train", slice(3)), store.scale))
    again = load_autoencoder(config.autoencoder).decode(to_grid(latent[:3], 1.0))
    assert (decoded.int() - again.int()).abs().max() <= 1  # rounding to bytes may fall to either side
    given = encode(tmp_path / "given", images, *settings, "latents.scale=0.7")
    torch.testing.assert_close(given.posterior_mean("train"), latent * 0.7, rtol=1e-4, atol=1e-5)


def planned(config):
    return Cell("x", config, ("quantizer",)).stages()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["autoencoder.channels=4"], r"autoencoder\.channels=4 must be 8, that of the shipped digits autoencoder"),
        (["autoencoder.stride=2"], r"autoencoder\.stride=2 must be 4"),
        (["data.image_channels=3"], r"data\.image_channels=3 must be 1, that of the shipped digits autoencoder"),
        (["latents.scale=autoencoder"], "needs a scaling_factor in the config of the shipped digits autoencoder"),
        (
            ["latents.scale=autoencoder", "quantizer.kind=fsq", "quantizer.levels=3"],
            "whose autoencoder is trained anew",
        ),
    ],
)
def test_settings_are_checked_before_any_stage(images, settings, message):
    config = config_of(images)
    planned(config)
    with pytest.raises(UserError, match=message):
        planned(override(config, settings))


def test_folders_are_checked_before_any_stage(images, tmp_path):
    save_tiny(tmp_path)
    words = ["autoencoder.source=diffusers", f"autoencoder.path={tmp_path}", "autoencoder.stride=2"]
    with pytest.raises(UserError, match=rf"autoencoder\.channels=8 must be 5, that of {tmp_path}"):
        planned(config_of(images, *words))
    with pytest.raises(UserError, match=r"data\.image_size=17 must be a multiple of autoencoder\.stride=2"):
        config_of(images, *words, "data.image_size=17")
    with pytest.raises(UserError, match=rf"data\.image_channels=1 must be 3, that of {tmp_path}"):
        planned(config_of(images, *words, "autoencoder.channels=5"))


def test_what_is_not_set_is_in_no_id():
    from experiments.presets import DIGITS

    assert {"class_list"}.isdisjoint(DIGITS.data.model_dump())
    assert DIGITS.latents.model_dump() == {"scale": "auto"}


def with_constant_channels(folder, channels):
    """An autoencoder whose posterior means of these channels are 0.3 for all images."""
    save_tiny(folder, in_channels=1, out_channels=1)
    state = load_file(path := folder / "diffusion_pytorch_model.safetensors")
    for channel in channels:
        state["quant_conv.weight"][channel] = 0
        state["quant_conv.bias"][channel] = 0.3
    save_file(state, path)
    return ["autoencoder.source=diffusers", f"autoencoder.path={folder}", "autoencoder.channels=5", *STRIDE]


STRIDE = ["autoencoder.stride=2"]


def test_a_constant_channel_comes_last_and_leaves_no_nan(images, tmp_path, capsys):
    store = encode(tmp_path / "latents", images, *with_constant_channels(tmp_path / "vae", [2]))
    assert store.frequency_order[-1] == 2
    assert store.stats["low_frequency_share"][2] == 0
    assert store.stats["correlation"][2] == [0, 0, 1, 0, 0]
    assert "NaN" not in (store.folder / "stats.json").read_text()
    assert "channels 2 are equal in all training images" in capsys.readouterr().err


def test_an_autoencoder_that_sees_nothing_is_refused(images, tmp_path):
    settings = with_constant_channels(tmp_path / "vae", range(5))
    with pytest.raises(UserError, match=r"latents of all 12 training images are equal, and must differ"):
        encode(tmp_path / "latents", images, *settings)


def test_the_mean_and_deviation_of_each_channel_in_a_config(images, tmp_path):
    """As diffusers' SDXL pipelines do: unit latents are (latent - latents_mean) * scaling_factor / latents_std."""
    each = {"latents_mean": [0.1, -0.2, 0.3, 0.0, 0.5], "latents_std": [2.0, 0.5, 1.5, 1.0, 4.0]}
    save_tiny(tmp_path / "vae", in_channels=1, out_channels=1, scaling_factor=0.5, **each)
    path = f"autoencoder.path={tmp_path / 'vae'}"
    settings = ["autoencoder.source=diffusers", path, "autoencoder.channels=5", *STRIDE]
    store = encode(tmp_path / "own", images, *settings, "latents.scale=autoencoder")
    found = encode(tmp_path / "found", images, *settings, "latents.scale=0.5")
    assert store.stats["shift"] == each["latents_mean"]
    assert store.stats["spread"] == each["latents_std"]
    mean, deviation = found.posterior("train", slice(None))
    own_mean, own_deviation = store.posterior("train", slice(None))
    shift, spread = (torch.tensor(each[key]) for key in ("latents_mean", "latents_std"))
    torch.testing.assert_close(own_mean, (mean / 0.5 - shift) * 0.5 / spread, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own_deviation, deviation / spread, rtol=1e-4, atol=1e-6)
    config = config_of(images, *settings, "latents.scale=autoencoder")
    decoded = autoencoder_of(config, {}, "cpu").decode(to_grid(own_mean[:3], store.scale))
    again = load_autoencoder(config.autoencoder).decode(to_grid(mean[:3], found.scale))
    assert (decoded.int() - again.int()).abs().max() <= 1
    plain = Cell("x", override(config, ["latents.scale=0.5"]), ("latents",)).stages()[0]
    assert "units" in Cell("x", config, ("latents",)).stages()[0].about()["reads"]
    assert "units" not in plain.about()["reads"]
