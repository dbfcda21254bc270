"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from tokenbridge.config import UserError
from tokenbridge.metrics.images import Lpips, exact, exact_caution, psnr, psnr_of_exact, ssim, ssim_window


def pictures(channels: int = 1, size: tuple[int, int] = (16, 13), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (5, channels, *size), dtype=np.uint8)
    y = np.clip(x + rng.normal(0, 1 + 20 * np.arange(5)[:, None, None, None], x.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_that_of_each_image(channels):
    x, y = pictures(channels)
    error = ((x.double() - y.double()) ** 2).mean((1, 2, 3))
    assert psnr(y, x).numpy() == pytest.approx(
        (10 * torch.log10(255**2 / error)).numpy(), rel=1e-6
    )  # its logarithm is float32


def test_psnr_by_hand():
    black = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    assert psnr(black, black + 255).item() == pytest.approx(0, abs=1e-6)
    assert psnr(black, black + 1).item() == pytest.approx(48.1308, abs=1e-4)


def test_an_exact_image_counts_as_one_value_off_by_one():
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    near = black.clone()
    near[0, 0, 1, 2] = 1
    expected = 10 * np.log10(255**2 * 16)
    assert psnr(near, black).tolist() == pytest.approx([expected, expected], abs=1e-5)
    assert psnr_of_exact(16) == pytest.approx(60.172, abs=1e-3)
    assert exact(near, black).tolist() == [False, True]
    assert exact_caution(0, 2, 16) == []
    assert "1 of 2 reconstructions equal their originals" in exact_caution(1, 2, 16)[0]
    assert "counts as 60.2 dB" in exact_caution(1, 2, 16)[0]


def definition_of_ssim(x: np.ndarray, y: np.ndarray, window: int) -> float:
    """Wang et al. 2004, eq. 13, mean over pixels and channels; the border of scipy's `mirror` is torch's `reflect`."""

    def local(v: np.ndarray) -> np.ndarray:
        return scipy.ndimage.uniform_filter(v, (1, window, window), mode="mirror")

    x, y = x.astype(float), y.astype(float)
    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


@pytest.mark.parametrize(("channels", "size", "window"), [(1, (16, 13), 7), (3, (16, 16), 7), (1, (4, 6), 3)])
def test_ssim_equals_its_definition(channels, size, window):
    assert ssim_window(*size) == window
    x, y = pictures(channels, size)
    expected = [definition_of_ssim(a, b, window) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert ssim(y, x).numpy() == pytest.approx(expected, abs=1e-9)
    assert ssim(x, x).numpy() == pytest.approx(1)


def test_ssim_of_one_image_has_one_axis():
    x, y = pictures()
    assert ssim(y[:1], x[:1]).shape == (1,)
    assert ssim(y[:1], x[:1])[0] == pytest.approx(ssim(y, x)[0].item())


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_pairs_that_do_not_match_are_refused(metric):
    x, _ = pictures()
    with pytest.raises(UserError, match="one shape"):
        metric(x, x[:, :, :8])
    with pytest.raises(UserError, match=r"float32.*must be uint8"):
        metric(x.float(), x)


@pytest.mark.parametrize("state", [[1], {"features.0.weight": "text"}, {"features.0.weight": torch.zeros(3)}])
def test_files_that_are_no_network_of_lpips_are_refused(tmp_path, state):
    torch.save(state, path := tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"vgg\.pth must hold a network's state; name torchvision's"):
        Lpips(path, 32)
