"""Frozen autoencoders: quality as shipped, diffusers folders, and folders that cannot work."""

import json

import numpy as np
import pytest
import torch

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from tokenbridge import ASSETS
from tokenbridge.autoencoders import frozen as autoencoder
from tokenbridge.autoencoders.sources import Digits, load_autoencoder, source_of, units_of
from tokenbridge.autoencoders.train import evaluate, train_autoencoder
from tokenbridge.config import Autoencoder, Data, UserError
from tokenbridge.data.images import load, stack
from tokenbridge.overrides import override

TINY = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (4, 6),
    "layers_per_block": 1,
    "latent_channels": 5,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
}


def save_tiny(folder, **changes):
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(**TINY | changes).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path, scaling_factor=0.3, shift_factor=0.1)


def folder_config(path, **changes):
    return Autoencoder(**{"source": "diffusers", "path": str(path), "channels": 5, "stride": 2} | changes)


def test_shipped_autoencoder_is_as_good_as_its_card_says():
    card = json.loads(Digits.weights.with_suffix(".json").read_text())
    measured = evaluate(Digits.weights)
    assert measured["psnr_db"] >= 32
    assert measured["psnr_db"] == pytest.approx(card["quality"]["psnr_db"], abs=0.05)
    assert measured["informative_channels"] >= 6
    assert measured["noise_ratio"] == pytest.approx(card["quality"]["noise_ratio"], abs=0.01)
    correlation = np.array(card["quality"]["channel_correlation"])
    assert correlation.shape == (8, 8)
    assert np.allclose(measured["channel_correlation"], correlation, atol=0.01)
    assert card["command"].startswith("tokenbridge train-autoencoder")


def test_assets_are_small():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 3 * 2**20


def test_digits_moments_and_decoding():
    frozen = load_autoencoder(Autoencoder())
    assert (frozen.channels, frozen.stride, frozen.image_channels) == (8, 4, 1)
    images = torch.from_numpy(stack(load(Data(), "test"))[0][:7])
    moments = frozen.moments(images)
    assert (moments.shape, moments.dtype) == ((7, 16, 4, 4), torch.float32)
    assert torch.allclose(frozen.moments(images[:1]), moments[:1], atol=1e-4)
    decoded = frozen.decode(moments[:, :8])
    assert (decoded.shape, decoded.dtype) == (images.shape, torch.uint8)
    assert (decoded.float() - images.float()).abs().mean() < 6
    assert not any(p.requires_grad for p in frozen.parameters())


def test_bytes_are_rounded_and_clamped():
    values = torch.tensor([-1.7, -1.0, 0.0, 1.0, 1.7, (100.6 / 127.5) - 1])
    assert autoencoder.to_bytes(values).tolist() == [0, 0, 128, 255, 255, 101]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(autoencoder.to_bytes(autoencoder.to_signed(every)), every)


def test_any_diffusers_folder_works(tiny):
    from diffusers import AutoencoderKL

    frozen = load_autoencoder(folder_config(tiny))
    assert (frozen.channels, frozen.stride, frozen.image_channels) == (5, 2, 3)
    assert (frozen.scaling_factor, frozen.shift_factor) == (0.3, 0.1)
    images = torch.randint(0, 256, (2, 3, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = AutoencoderKL.from_pretrained(tiny).eval()
    with torch.no_grad():
        expected = reference.encode(images.float() / 127.5 - 1).latent_dist
    moments = frozen.moments(images)
    assert torch.allclose(moments, torch.cat([expected.mean, expected.logvar], 1), atol=1e-5)
    assert frozen.decode(moments[:, :5]).shape == images.shape


STYLES = {  # what their configs say; sizes are small
    "SD": {"latent_channels": 4, "scaling_factor": 0.18215},
    "SDXL": {"latent_channels": 4, "scaling_factor": 0.13025, "force_upcast": True},
    "SD3": {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "FLUX": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": True},
}
WITHOUT_QUANT_CONV = {"use_quant_conv": False, "use_post_quant_conv": False}


@pytest.mark.parametrize("style", STYLES)
def test_the_styles_of_published_autoencoders(tmp_path, style):
    """Scale and shift are kept, with and without the convolutions around the latents; latents stay in own units."""
    from diffusers import AutoencoderKL

    settings = {"mid_block_add_attention": True} | STYLES[style]
    settings |= WITHOUT_QUANT_CONV if "shift_factor" in settings else {}
    channels = settings["latent_channels"]
    frozen = load_autoencoder(folder_config(save_tiny(tmp_path, **settings), channels=channels))
    assert (frozen.channels, frozen.stride) == (channels, 2)
    assert (frozen.scaling_factor, frozen.shift_factor) == (settings["scaling_factor"], settings.get("shift_factor"))
    reference = AutoencoderKL.from_pretrained(tmp_path).eval()
    assert (reference.quant_conv is None) == ("shift_factor" in settings)
    images = torch.randint(0, 256, (2, 3, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moments = frozen.moments(images)
    with torch.no_grad():
        expected = reference.encode(images.float() / 127.5 - 1).latent_dist.parameters
        decoded = reference.decode(expected[:, :channels]).sample
    assert torch.allclose(moments, expected, atol=1e-5)
    difference = frozen.decode(moments[:, :channels]).int() - autoencoder.to_bytes(decoded).int()
    assert difference.abs().max() <= 1  # rounding to bytes may fall to either side


def test_a_folder_without_scaling_factor_has_none(tiny):
    settings = json.loads((tiny / "config.json").read_text())
    del settings["scaling_factor"], settings["shift_factor"]
    (tiny / "config.json").write_text(json.dumps(settings))
    frozen = load_autoencoder(folder_config(tiny))
    assert frozen.scaling_factor is None
    assert frozen.shift_factor is None


def test_fingerprint_follows_the_weights(tiny, tmp_path):
    before = source_of(folder_config(tiny)).fingerprint()
    assert before == source_of(folder_config(tiny)).fingerprint()
    assert before != source_of(folder_config(save_tiny(tmp_path / "other", block_out_channels=(4, 8)))).fingerprint()
    assert len(source_of(Autoencoder()).fingerprint()) == 64


@pytest.mark.parametrize(
    ("change", "message"), [({"channels": 4}, "channels=4 must be 5"), ({"stride": 4}, "stride=4 must be 2")]
)
def test_weights_of_another_shape_are_refused(tiny, change, message):
    with pytest.raises(UserError, match=message):
        load_autoencoder(folder_config(tiny, **change))
    with pytest.raises(UserError, match=r"autoencoder\.channels=4 must be 8"):
        load_autoencoder(Autoencoder(channels=4))


def test_images_that_do_not_fit_are_refused(tiny):
    frozen = load_autoencoder(folder_config(tiny))
    for shape in ((1, 1, 8, 8), (1, 3, 7, 8)):
        with pytest.raises(UserError, match="must have 3 channels"):
            frozen.moments(torch.zeros(shape, dtype=torch.uint8))


def test_broken_folders_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"must hold config\.json"):
        load_autoencoder(folder_config(tmp_path / "absent"))
    with pytest.raises(UserError, match="must name a folder"):
        load_autoencoder(Autoencoder(source="diffusers", channels=5, stride=2))
    weights = next(tiny.glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors must be a whole safetensors file"):
        load_autoencoder(folder_config(tiny))
    weights.write_bytes(content)
    config = tiny / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "UNet2DModel"))
    with pytest.raises(UserError, match="of class UNet2DModel"):
        load_autoencoder(folder_config(tiny))
    config.write_text("{")
    with pytest.raises(UserError, match="is not readable JSON"):
        load_autoencoder(folder_config(tiny))


@pytest.mark.parametrize("shards", [False, True])
def test_weights_in_half_precision_alone_are_read(tmp_path, shards):
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(save_tiny(tmp_path / "whole")).half()
    model.save_pretrained(tmp_path / "half", variant="fp16", **({"max_shard_size": "4KB"} if shards else {}))
    assert (len(list((tmp_path / "half").glob("*.safetensors"))) > 1) == shards
    config = folder_config(tmp_path / "half")
    assert len(source_of(config).fingerprint()) == 64
    images = torch.randint(0, 256, (2, 3, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moments, whole = (load_autoencoder(c).moments(images) for c in (config, folder_config(tmp_path / "whole")))
    assert moments.dtype == torch.float32
    torch.testing.assert_close(moments, whole, rtol=0, atol=5e-3)


@pytest.fixture
def sharded(tmp_path):
    from diffusers import AutoencoderKL

    whole = AutoencoderKL.from_pretrained(save_tiny(tmp_path / "whole"))
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    return tmp_path / "sharded"


def planned(path):
    words = [f"autoencoder.path={path}", "autoencoder.source=diffusers", "autoencoder.channels=5"]
    return Cell("x", override(DIGITS, [*words, "autoencoder.stride=2", "data.image_channels=1"])).stages()


def test_damaged_weights_stop_a_run_before_it_starts(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    index = sharded / "diffusion_pytorch_model.safetensors.index.json"
    assert len(source_of(folder_config(sharded)).fingerprint()) == 64
    assert load_autoencoder(folder_config(sharded)).channels == 5
    content = shards[1].read_bytes()
    for damage, message in (
        (lambda: shards[1].write_bytes(content[:-4]), f"{shards[1].name} must be a whole safetensors file"),
        (lambda: shards[1].write_bytes(shards[0].read_bytes()), f"{shards[1].name} must hold .*, as its index says"),
        (lambda: shards[1].unlink(), f"{shards[1].name} is missing, a part of the weights that"),
        (lambda: index.write_text("[]"), "must say in weight_map which file each weight is in"),
        (lambda: index.write_text('{"weight_map": {"a": 3}}'), "must say in weight_map which file"),
        (lambda: index.unlink(), "must hold diffusion_pytorch_model.safetensors, or its variant"),
    ):
        damage()
        with pytest.raises(UserError, match=message) as error:
            source_of(folder_config(sharded)).fingerprint()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": "four"}, "latent_channels='four' must be a whole number from 1"),
        ({"latent_channels": None}, "latent_channels=None must be a whole number"),
        ({"in_channels": 0}, "in_channels=0 must be a whole number from 1"),
        ({"block_out_channels": []}, "block_out_channels=.* must be a list of numbers"),
        ({"block_out_channels": 4}, "block_out_channels=4 must be a list of numbers"),
        ({"block_out_channels": [4, 0.5]}, "block_out_channels=0.5 must be a whole number"),
        ({"out_channels": 1}, "out_channels=1 must be in_channels=3"),
        ([3], "must be a JSON object"),
        ({"_class_name": "UNet2DModel"}, "is of class UNet2DModel and must be of one of AutoencoderKL, "),
    ],
)
def test_configs_that_cannot_be_stop_a_run_before_it_starts(tiny, changes, message):
    path = tiny / "config.json"
    own = json.loads(path.read_text())
    path.write_text(json.dumps(own | changes if isinstance(changes, dict) else changes))
    with pytest.raises(UserError, match=message):
        planned(tiny)


def test_a_pipelines_folder_is_told_where_its_autoencoder_is(tmp_path):
    save_tiny(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"is the folder of a pipeline .* give autoencoder\.path=.*/vae"):
        planned(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "vae" / "vae.safetensors")
    with pytest.raises(UserError, match=r"must hold diffusion_pytorch_model\.safetensors, or its variant fp16"):
        source_of(folder_config(tmp_path / "vae")).fingerprint()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scaling_factor": 0}, "scaling_factor=0 in the config of .* must be a finite number > 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor=nan .* must be a finite number > 0"),
        ({"scaling_factor": "0.3"}, "scaling_factor='0.3' .* must be a finite number > 0"),
        ({"shift_factor": float("inf")}, "shift_factor=inf .* must be a finite number;"),
        ({"latents_mean": [0.0] * 5}, "latents_std=None in the config of .* must be 5 numbers"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 5}, "latents_mean=.* must be 5 numbers"),
        (
            {"latents_mean": [0.0] * 5, "latents_std": [1.0] * 4 + [0.0]},
            "latents_std=0.0 .* must be a finite number > 0",
        ),
        ({"latents_mean": [0.0] * 5, "latents_std": [1.0] * 5, "shift_factor": 0.1}, "shift_factor=0.1 beside"),
    ],
)
def test_own_units_that_cannot_be_are_refused(given, message):
    source = source_of(Autoencoder(source="diffusers", path="x"))
    with pytest.raises(UserError, match=message):
        units_of({"latent_channels": 5, "scaling_factor": 0.5} | given, source)


def test_weights_that_are_no_numbers_are_refused(tiny):
    from safetensors.torch import load_file, save_file

    path = next(tiny.glob("*.safetensors"))
    state = load_file(path)
    whole = state | {"decoder.conv_in.bias": state["decoder.conv_in.bias"].to(torch.int32)}
    save_file(whole, path)
    with pytest.raises(UserError, match=r"must hold floating-point weights, and decoder\.conv_in\.bias is I32"):
        source_of(folder_config(tiny)).fingerprint()
    state["decoder.conv_in.bias"][0] = torch.nan  # of the decoder: latents alone would not show it
    save_file(state, path)
    with pytest.raises(UserError, match=r"decoder\.conv_in\.bias of the autoencoder holds NaN or infinite weights"):
        load_autoencoder(folder_config(tiny))


def test_weights_that_miss_a_tensor_are_refused(tiny):
    from safetensors.torch import load_file, save_file

    path = next(tiny.glob("*.safetensors"))
    state = load_file(path)
    state.pop("decoder.conv_in.weight")
    save_file(state, path)
    with pytest.raises(UserError, match=r"decoder\.conv_in\.weight"):
        load_autoencoder(folder_config(tiny))


def test_broken_digits_weights_are_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(Digits.weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        Digits(weights=path).load()


@pytest.mark.slow
def test_training_repeats_itself(tmp_path):
    cards = [train_autoencoder(tmp_path / name, epochs=1, seed=3) for name in ("a", "b")]
    assert cards[0] == cards[1]
