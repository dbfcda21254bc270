"""Autoencoders of LDM and MAR (kl16.ckpt): as the released code, as the definition; files that cannot work."""

import argparse
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.helpers.machine import DATA
from tokenbridge.autoencoders import ldm
from tokenbridge.autoencoders.frozen import build, to_signed
from tokenbridge.autoencoders.sources import architecture, load_autoencoder, source_of
from tokenbridge.config import Autoencoder, UserError

SMALL = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}


@pytest.fixture(scope="module")
def small():
    """Random weights of another architecture than KL-16, under LDM's names."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    state = AutoencoderKL(**SMALL).state_dict()
    draws = torch.Generator().manual_seed(0)
    return {
        name: in_ldm(name, 0.1 * torch.randn(state[key].shape, generator=draws) + name.endswith("norm.weight"))
        for name, key in ldm.ldm_names(state).items()
    }


def in_ldm(name, tensor):
    return tensor[..., None, None] if tensor.dim() == 2 and ".attn" in name else tensor


def saved(folder, state, name="kl.ckpt"):
    path = folder / name
    torch.save(state, path)
    return path


def config(path, **changes):
    return Autoencoder(**{"source": "ldm", "path": str(path), "channels": 3, "stride": 2} | changes)


def load(path, **changes):
    return load_autoencoder(config(path, **changes))


def test_kl16_equals_the_released_code(tmp_path):
    reference = load_file(DATA / "kl16_reference.safetensors")
    path = saved(tmp_path, {"model": load_file(DATA / "kl16_weights.safetensors")})
    frozen = load(path, channels=16, stride=16)
    assert (frozen.channels, frozen.stride, frozen.image_channels) == (16, 16, 3)
    assert frozen.model.config["block_out_channels"] == (32, 32, 64, 64, 128)
    with torch.inference_mode():
        moments = frozen.model.encode(reference["images"]).latent_dist.parameters
        decoded = frozen.model.decode(reference["latents"]).sample
    torch.testing.assert_close(moments, reference["moments"], atol=1e-4, rtol=0)
    torch.testing.assert_close(decoded, reference["decoded"], atol=1e-4, rtol=0)


class Definition:
    """The architecture as the LDM paper's code has it, straight from a state dict."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **how):
        return functional.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def norm(self, name, x):
        return functional.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def residual(self, name, x):
        h = self.conv(f"{name}.conv1", functional.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", functional.silu(self.norm(f"{name}.norm2", h)), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)

    def attention(self, name, x):
        if f"{name}.q.weight" not in self.state:
            return x
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = torch.einsum("bci,bcj->bij", q, k).div(q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv(f"{name}.proj_out", torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))

    def middle(self, name, x):
        x = self.attention(f"{name}.attn_1", self.residual(f"{name}.block_1", x))
        return self.residual(f"{name}.block_2", x)

    def end(self, name, x):
        return self.conv(f"{name}.conv_out", functional.silu(self.norm(f"{name}.norm_out", x)), padding=1)

    def encode(self, x):
        x = self.conv("encoder.conv_in", x, padding=1)
        for level in range(2):
            x = self.residual(f"encoder.down.{level}.block.0", x)
            x = self.attention(f"encoder.down.{level}.attn.0", x)
            if level == 0:
                x = self.conv("encoder.down.0.downsample.conv", functional.pad(x, (0, 1, 0, 1)), stride=2)
        return self.conv("quant_conv", self.end("encoder", self.middle("encoder.mid", x)))

    def decode(self, x):
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", x), padding=1))
        for level in (1, 0):
            for block in range(2):
                x = self.residual(f"decoder.up.{level}.block.{block}", x)
                x = self.attention(f"decoder.up.{level}.attn.{block}", x)
            if level == 1:
                doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv("decoder.up.1.upsample.conv", doubled, padding=1)
        return self.end("decoder", x)


def test_other_sizes_equal_the_definition(small, tmp_path):
    """Grey images, 3 channels, stride 2, attention on other levels and in the decoder."""
    frozen = load(saved(tmp_path, {"state_dict": small | {"loss.logvar": torch.zeros(())}, "epoch": 7}))
    assert (frozen.channels, frozen.stride, frozen.image_channels) == (3, 2, 1)
    images = torch.randint(0, 256, (2, 1, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = Definition(small).encode(to_signed(images))
    moments = frozen.moments(images)
    torch.testing.assert_close(moments, expected, atol=1e-4, rtol=1e-5)
    with torch.inference_mode():
        decoded = frozen.model.decode(moments[:, :3]).sample  # type: ignore[operator]
    torch.testing.assert_close(decoded, Definition(small).decode(moments[:, :3]), atol=1e-4, rtol=1e-5)
    assert frozen.decode(moments[:, :3]).shape == images.shape
    with pytest.raises(UserError, match=r"1×7×8 must have 1 channels and sides that are multiples of 2"):
        frozen.moments(torch.zeros(1, 1, 7, 8, dtype=torch.uint8))


def test_half_precision_bare_state_and_arguments_are_read(small, tmp_path):
    half = {key: value.half() for key, value in small.items()}
    frozen = load(saved(tmp_path, half))
    assert {value.dtype for value in frozen.state_dict().values()} == {torch.float32}
    given = {"model": half, "args": argparse.Namespace(epochs=3)}
    again = load(saved(tmp_path, given, "with_arguments.ckpt"))
    assert all(torch.equal(again.state_dict()[key], value) for key, value in frozen.state_dict().items())


def test_its_hash_follows_the_weights(small, tmp_path):
    path = saved(tmp_path, small)
    first = source_of(config(path)).fingerprint()
    assert first == source_of(config(shutil.copy(path, tmp_path / "copy.ckpt"))).fingerprint()
    other = small | {"quant_conv.bias": small["quant_conv.bias"] + 1}
    assert first != source_of(config(saved(tmp_path, other, "other.ckpt"))).fingerprint()


def test_a_quantizer_can_be_trained_in_its_architecture(small, tmp_path):
    path = saved(tmp_path, small)
    body = build(architecture(config(path, channels=5)))
    assert body.config["latent_channels"] == 5
    assert body.config["up_block_types"] == SMALL["up_block_types"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"channels": 16}, r"autoencoder\.channels=16 must be 3"), ({"stride": 16}, r"autoencoder\.stride=16 must be 2")],
)
def test_weights_of_another_shape_are_refused(small, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(saved(tmp_path, small), **change)


def refusal(path):
    with pytest.raises(UserError) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_decoder_of_other_images_than_the_encoder_is_refused(small, tmp_path):
    wide = {f"decoder.conv_out.{part}": small[f"decoder.conv_out.{part}"] for part in ("weight", "bias")}
    torch.save(small | {key: torch.cat([value] * 3) for key, value in wide.items()}, path := tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt gives images of 3 channels from those of 1, which must be as many"):
        source_of(Autoencoder(source="ldm", path=str(path))).settings()


def test_files_that_are_not_whole_are_refused(small, tmp_path):
    path = saved(tmp_path, small)
    content = path.read_bytes()
    for size in (0, 10, 1000, len(content) // 2, len(content) - 100):
        path.write_bytes(content[:size])
        assert "must be a whole checkpoint" in refusal(path)
    assert "must be a file where autoencoder.source=ldm" in refusal(tmp_path / "absent.ckpt")
    assert "must be a file where autoencoder.source=ldm" in refusal(tmp_path)
    with pytest.raises(UserError, match=r"autoencoder\.path=None must be a file"):
        load_autoencoder(Autoencoder(source="ldm"))
    with pytest.raises(UserError, match=r"absent\.ckpt must be a file"):
        source_of(config(tmp_path / "absent.ckpt")).fingerprint()


class Code:
    """On reading, writes a file: what a pickle must not do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_code_in_a_file_does_not_run(small, tmp_path, write):
    ran, path = tmp_path / "ran", tmp_path / "kl.ckpt"
    write({"model": small, "callback": Code(ran)}, path)
    assert re.search(r"asks for \S+, which weights do not need; nothing of it was run", refusal(path))
    assert not ran.exists()


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "decoder.mid.attn_1.k.bias"), "decoder.mid.attn_1.k.bias is missing"),
        (lambda s: without(s, "encoder.conv_in.weight"), "must hold encoder.conv_in.weight"),
        (lambda s: without(s, "encoder.down.1.block.0.conv1.weight"), "encoder.down.1.block.0.conv1.weight"),
        (lambda s: s | {"encoder.extra": torch.ones(2)}, "encoder.extra is none of its weights"),
        (lambda s: s | {"quantize.embedding.weight": torch.ones(9, 3)}, "quantize.embedding.weight is none"),
        (lambda s: s | {"quant_conv.weight": torch.ones(3, 6, 1, 1)}, "quant_conv.weight is of [3, 6, 1, 1] and must"),
        (lambda s: s | {"quant_conv.bias": "text"}, "its quant_conv.bias is a str"),
        (lambda s: s | {"quant_conv.bias": torch.ones(6).int()}, "its quant_conv.bias is a torch.int32"),
        (lambda s: s | {"encoder.down.0.block.0.conv1.weight": torch.ones(4, 32, 3, 3)}, "has 4 channels in a level"),
        (lambda s: s | {"encoder.down.999.x.weight": torch.ones(1)}, "must hold encoder.down.2.block.0.conv1.weight"),
        (lambda s: {"backbone.weight": torch.ones(2)}, "must hold encoder.conv_in.weight"),
        (lambda s: [1, 2], "must hold a state dict, and holds a list"),
    ],
)
def test_other_weights_are_refused(small, tmp_path, change, message):
    assert message in refusal(saved(tmp_path, change(small)))


def test_a_diffusers_state_is_refused(small, tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    path = saved(tmp_path, AutoencoderKL(**SMALL).state_dict())
    assert "must hold encoder.down.0.block.0.conv1.weight as an LDM autoencoder" in refusal(path)
