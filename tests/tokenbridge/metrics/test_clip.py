"""CLIP's features and CMMD against torch-fidelity's network and against its definition, with weights of the format."""

import numpy as np
import pytest
import torch

from tests.helpers.scorers import pictures, write_clean, write_clip
from tokenbridge.config import Score, UserError
from tokenbridge.metrics import sets
from tokenbridge.metrics.extraction import extract
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.scorers import SCORERS


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(weights):
    return load_extractor("clip", score=Score(features="clip", weights=str(weights)), trusted=True)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_features_are_torch_fidelitys_where_nothing_is_resized(weights, clip):
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    theirs = FeatureExtractorCLIP("clip-vit-l-14-336px", ["clip"], str(weights / SCORERS["clip"].file))
    images = pictures(5, size=28)
    (expected,) = theirs(torch.from_numpy(images))
    found = extract(clip, images, 2).features
    assert found.shape == (5, SCORERS["clip"].width)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [16, 100])
def test_the_resize_is_pillows_bicubic_without_rounding(clip, size):
    """jax.image.resize, which CMMD uses, has the same kernel and widens it likewise where it makes images smaller."""
    from PIL import Image

    images = pictures(2, size=size)
    large = [Image.fromarray(plane.astype(np.float32), "F") for plane in images.reshape(-1, size, size)]
    planes = np.stack([np.asarray(plane.resize((28, 28), Image.Resampling.BICUBIC)) for plane in large])
    expected = clip.network((torch.from_numpy(planes.reshape(-1, 3, 28, 28)) - clip.mean) / clip.deviation)
    np.testing.assert_allclose(extract(clip, images, 2).features, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_cmmd_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(count, 7)).astype(np.float32) for count in (11, 6))
    a, b = (each / np.linalg.norm(each.astype(np.float64), axis=1, keepdims=True) for each in (x, y))

    def kernel(first, second):
        return np.mean([[np.exp(-np.sum((u - v) ** 2) / 200) for v in second] for u in first])

    expected = 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    assert sets.cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert sets.cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_another_file_is_named_and_not_run_unless_trusted(weights, tmp_path):
    with pytest.raises(UserError, match="is a TorchScript, which runs what is in it"):
        load_extractor("clip", score=Score(features="clip", weights=str(weights)))
    write_clean(tmp_path)
    (tmp_path / SCORERS["clean"].file).rename(tmp_path / SCORERS["clip"].file)
    with pytest.raises(UserError, match="must be CLIP's ViT-L/14 as TorchScript"):
        load_extractor("clip", score=Score(features="clip", weights=str(tmp_path)), trusted=True)
