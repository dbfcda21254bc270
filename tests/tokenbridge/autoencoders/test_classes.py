"""Each autoencoder class of diffusers: a folder in its published format gives what diffusers itself gives."""

import json
from importlib.util import find_spec

import pytest
import torch

from experiments.budget import _autoencoder as planned
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tokenbridge.autoencoders.autoencoder_kl import CLASSES, Sizes, autoencoder_class, sizes_of
from tokenbridge.autoencoders.frozen import to_bytes
from tokenbridge.autoencoders.sources import autoencoder_of, load_autoencoder, source_of, units_of
from tokenbridge.config import Autoencoder, Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store

BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (4, 6),
    "norm_num_groups": 2,
    "latent_channels": 5,
}
GREY = {"in_channels": 1, "out_channels": 1}
# settings of each class, and the sizes that they mean
CASES = {
    "AutoencoderKL": (BLOCKS | GREY, Sizes(5, 2, 1)),
    "VQModel": (BLOCKS | GREY | {"vq_embed_dim": 3, "num_vq_embeddings": 7}, Sizes(3, 2, 1)),
    "AutoencoderTiny": (
        GREY
        | {
            "encoder_block_out_channels": (4, 4, 4),
            "decoder_block_out_channels": (4, 4, 4),
            "num_encoder_blocks": (1, 1, 1),
            "num_decoder_blocks": (1, 1, 1),
            "latent_channels": 5,
        },
        Sizes(5, 4, 1),
    ),
    "AutoencoderDC": (
        {
            "in_channels": 1,
            "latent_channels": 4,
            "attention_head_dim": 4,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (4, 8),
            "decoder_block_out_channels": (4, 8),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "scaling_factor": 0.41407,
        },
        Sizes(4, 2, 1),
    ),
    "AutoencoderRAE": (
        {
            "encoder_hidden_size": 64,
            "encoder_patch_size": 14,
            "encoder_num_hidden_layers": 1,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
            "patch_size": 4,
            "encoder_input_size": 28,
            "latents_mean": torch.full((64, 1, 1), 0.3),
            "latents_std": torch.full((64, 1, 1), 1.7),
        },
        Sizes(64, 4, 3, 8),
    ),
}
WITH_OTHERS = pytest.mark.skipif(find_spec("transformers") is None, reason="its encoders are those of transformers")
HERE = [pytest.param(name, marks=[WITH_OTHERS] if name == "AutoencoderRAE" else []) for name in CASES]


def save(name, folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder_class(name)(**CASES[name][0]).save_pretrained(folder)
    return folder


def config_of(name, folder):
    channels, stride, colours, size = CASES[name][1]
    words = ["source=diffusers", f"path={folder}", f"channels={channels}", f"stride={stride}"]
    data = [f"data.image_channels={colours}", f"data.image_size={size or 4 * stride}"]
    return override(DIGITS, [*(f"autoencoder.{word}" for word in words), *data, "sample.iterations=1"])


def test_each_class_has_a_case():
    assert CASES.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", HERE)
def test_equal_to_diffusers(name, tmp_path):
    config = config_of(name, save(name, tmp_path))
    frozen, sizes = load_autoencoder(config.autoencoder), CASES[name][1]
    assert sizes_of(source_of(config.autoencoder).settings()) == sizes
    assert (frozen.channels, frozen.stride, frozen.image_channels, frozen.image_size) == sizes
    reference = autoencoder_class(name).from_pretrained(tmp_path).eval()
    shape = (2, sizes.image_channels, config.data.image_size, config.data.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, log_variance = frozen.moments(images).chunk(2, 1)
    assert mean.shape == (2, sizes.channels, shape[2] // sizes.stride, shape[3] // sizes.stride)
    low = 0 if name == "AutoencoderRAE" else -1  # of its images; the highest is 1
    with torch.no_grad():
        found = reference.encode(images / 255 * (1 - low) + low)
        if name == "AutoencoderKL":
            expected = found.latent_dist.mean
            torch.testing.assert_close(log_variance, found.latent_dist.logvar, atol=1e-5, rtol=0)
        else:
            expected = found[0]
            assert bool((log_variance == -60).all()), "a draw is the latent itself"
        whole = {"force_not_quantize": True} if name == "VQModel" else {}
        decoded = reference.decode(expected, **whole).sample
    torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    assert mean.std() > 0
    difference = frozen.decode(mean).int() - to_bytes((decoded - low) / (1 - low) * 2 - 1).int()
    assert difference.abs().max() <= 1  # rounding to bytes may fall to either side


@pytest.mark.parametrize("name", [name for name in CASES if name != "AutoencoderRAE"])  # which takes colours alone
def test_planning(name, tmp_path):
    config = config_of(name, save(name, tmp_path))
    assert Cell("x", config, ("reconstruct",)).stages()[0].kind.name == "latents"
    parameters = sum(p.numel() for p in load_autoencoder(config.autoencoder).model.parameters())
    costs, _ = planned(config)
    codes = CASES[name][0].get("num_vq_embeddings", 0) * config.autoencoder.channels
    assert costs["encoder"] + costs["decoder"] == parameters - codes
    assert min(costs["encode"], costs["decode"]) > 0
    own = override(config, ["latents.scale=autoencoder"])
    Cell("x", own, ("reconstruct",)).stages()
    units = units_of(source_of(config.autoencoder).settings(), source_of(config.autoencoder))
    default = {"AutoencoderTiny": 1.0, "AutoencoderDC": 0.41407}
    assert units.scale == default.get(name, 0.18215)
    assert autoencoder_of(own, {}, "cpu").units == {"shift": 0.0}
    if name != "AutoencoderKL":
        with pytest.raises(UserError, match=f"is of class {name} and must be of AutoencoderKL for tokens that are"):
            Cell("x", override(config, ["quantizer.kind=vq"]), ("reconstruct",)).stages()


@pytest.mark.slow
def test_a_run_reconstructs_with_a_tiny_one(tmp_path):
    config = config_of("AutoencoderTiny", save("AutoencoderTiny", tmp_path / "tiny"))
    cell = Cell("tiny", config, ("reconstruct",))
    run_cells(Store(tmp_path), [cell], Runtime(threads=1, bars=False), "tests")
    folders = {stage.kind.name: tmp_path / "stages" / stage.id for stage in cell.stages()}
    latents = Latents(folders["latents"])
    draws = latents.posterior_sample("test", torch.Generator().manual_seed(0))
    means = torch.as_tensor(latents.read("test", slice(None)))[:, :5].flatten(2).transpose(1, 2) * latents.scale
    torch.testing.assert_close(draws, means.float(), atol=1e-5, rtol=1e-5)
    assert (folders["reconstruct"] / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("AutoencoderTiny", {"num_decoder_blocks": [1]}, "num_decoder_blocks=1 items must be num_encoder_blocks=3"),
        ("AutoencoderTiny", {"upsampling_scaling_factor": 3}, "upsampling_scaling_factor=3 must be 2"),
        ("AutoencoderTiny", {"num_encoder_blocks": 3}, "num_encoder_blocks=3 must be a list of numbers"),
        ("VQModel", {"vq_embed_dim": "3"}, "vq_embed_dim='3' must be a whole number"),
        ("VQModel", {"out_channels": 3}, "out_channels=3 must be in_channels=1"),
        ("AutoencoderDC", {"latent_channels": 0}, "latent_channels=0 must be a whole number from 1"),
        ("AutoencoderRAE", {"reshape_to_2d": False}, "reshape_to_2d must be true"),
        ("AutoencoderRAE", {"encoder_patch_size": 0}, "encoder_patch_size=0 must be a whole number from 1"),
        ("AutoencoderOobleck", {}, f"of class AutoencoderOobleck and must be of one of {', '.join(CLASSES)}"),
    ],
)
def test_folders_that_cannot_be_stop_a_run_before_it_starts(name, changes, message, tmp_path):
    own = {key: value for key, value in CASES.get(name, ({},))[0].items() if not torch.is_tensor(value)}
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name} | own | changes))
    with pytest.raises(UserError, match=message) as error:
        source_of(Autoencoder(source="diffusers", path=str(tmp_path))).settings()
    assert "\n" not in str(error.value)


def test_images_of_another_size_than_the_only_one_are_refused(tmp_path):
    config = config_of("AutoencoderRAE", tmp_path)
    own = {key: value for key, value in CASES["AutoencoderRAE"][0].items() if not torch.is_tensor(value)}
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderRAE"} | own | {"num_channels": 1}))
    with pytest.raises(UserError, match=r"data\.image_size=16 must be 8, the only size of"):
        Cell("x", override(config, ["data.image_size=16", "data.image_channels=1"]), ("reconstruct",)).stages()


@pytest.mark.skipif(find_spec("transformers") is not None, reason="the package is here")
def test_a_class_that_needs_another_package_says_so():
    with pytest.raises(UserError, match="AutoencoderRAE needs the package transformers"):
        autoencoder_class("AutoencoderRAE")
