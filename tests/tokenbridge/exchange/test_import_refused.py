"""Checkpoints that are none, or of another model: one line, nothing in them runs, nothing is left behind."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.helpers import release as small_release
from tests.helpers.release import SIZES, change, write


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path)


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


@pytest.mark.parametrize("name", ["backbone.heads", "backbone.decoder_heads"])
def test_attention_heads_that_weights_do_not_tell(call, path, name):
    line = refused(call, path, sizes=[word for word in SIZES if not word.startswith(f"{name}=")])
    assert "backbone.width=32 is not the release's 1024" in line
    assert f"{name} must be given" in line


def test_attention_heads_that_do_not_divide_the_width(call, path):
    line = refused(call, path, "backbone.decoder_heads=3")
    assert "backbone.width=32 must be a multiple of backbone.decoder_heads=3" in line


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
