"""One contract over all quantizers, and each against its definition."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from tokenbridge.config import Quantizer, UserError
from tokenbridge.tokenizers.levels import gaussian_centers
from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer, diagnostics, fit, range_of

KINDS = ["gaussian", "uniform", "quantile", "lloyd-max"]
ALL = [(kind, per) for kind in KINDS for per in ("tensor", "channel")]


def normal(n=4001, channels=3, seed=0):
    scale = torch.linspace(0.7, 1.3, channels)
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(("kind", "per"), ALL)
@pytest.mark.parametrize("levels", [2, 7, 64])
def test_contract(kind, per, levels):
    x = normal()
    quantizer = fit(Quantizer(kind=kind, per=per, levels=levels), x)
    tokens = quantizer.encode(x.reshape(-1, 1, 3))
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(x), 1, 3)
    assert quantizer.levels == (levels,) * 3
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < levels
    decoded = quantizer.decode(tokens)
    assert decoded.shape == tokens.shape
    assert decoded.dtype == torch.float32
    assert torch.equal(quantizer.encode(decoded), tokens), "a reconstruction value is its own nearest"
    table = (x[:, :, None] - quantizer.centers.expand(3, -1)).abs().argmin(-1)
    assert torch.equal(tokens[:, 0], table), "the index is that of the nearest reconstruction value (equation 4)"


@pytest.mark.parametrize(("kind", "per"), ALL)
def test_bins_cover_the_calibration_data_exactly(kind, per):
    x = normal()
    quantizer = fit(Quantizer(kind=kind, per=per, levels=16), x)
    widths = quantizer.bin_widths()
    torch.testing.assert_close(widths.sum(1), x.amax(0) - x.amin(0))
    used = widths.gather(1, quantizer.encode(x).T)
    assert bool((used > 0).all())


def test_gaussian_values_are_means_of_truncated_normals():
    bounds = np.clip(stats.norm.ppf(np.linspace(0, 1, 9)), -3, 3)
    for center, low, high in zip(gaussian_centers(8, 3.0), bounds, bounds[1:], strict=False):
        mass = integrate.quad(stats.norm.pdf, low, high)[0]
        assert center == pytest.approx(integrate.quad(lambda t: t * stats.norm.pdf(t), low, high)[0] / mass, abs=1e-9)


@pytest.mark.parametrize("levels", [740, 741, 65_536])
def test_truncated_edges_leave_no_bin_empty(levels):
    centers = gaussian_centers(levels, 3.0, "truncated")
    assert np.all(np.diff(centers.astype(np.float32)) > 0)
    share = np.diff(stats.norm.cdf(stats.norm.ppf(np.linspace(stats.norm.cdf(-3), stats.norm.cdf(3), levels + 1))))
    assert share.max() / share.min() < 1.001


def test_the_papers_figures_on_normal_draws():
    """PAPER: at B = 64 the error is 6.6e-4 at ±5 and 4.0e-3 at ±3; uniform 2.0e-3; the entropy at ±5 is 5.72 bits."""
    x = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0))

    def costs(**settings):
        wanted = Quantizer(levels=64, **settings)
        return diagnostics(fit(wanted, x), x, range_of(wanted, x))

    paper = costs(range=5)
    assert paper["mse"] == pytest.approx(6.6e-4, rel=0.02)
    assert paper["entropy_bits"] == pytest.approx(5.72, abs=0.005)
    assert costs(range=3)["mse"] == pytest.approx(4.0e-3, rel=0.02)
    assert costs(kind="uniform")["mse"] == pytest.approx(2.0e-3, rel=0.03)
    assert paper["limit_panter_dite"] == pytest.approx(6.6e-4, rel=0.02)
    assert paper["limit_shannon"] < paper["limit_entropy_coded"] < paper["mse"] * 1.5


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("levels", [2, 3, 8, 13, 64])
@pytest.mark.parametrize("data", ["normal", "laplace", "ties"])
def test_lloyd_max_is_never_worse_on_its_calibration_data(per, levels, data):
    x = normal(3001)
    if data == "laplace":
        x = torch.distributions.Laplace(0.0, 0.7).icdf(torch.special.ndtr(x).clamp(1e-6, 1 - 1e-6))
    if data == "ties":
        x = (x * 20).round() / 20
    error = {kind: diagnostics(fit(Quantizer(kind=kind, per=per, levels=levels), x), x)["mse"] for kind in KINDS}
    assert error["lloyd-max"] <= min(error.values()) * (1 + 1e-6)


def test_lloyd_max_is_a_fixed_point():
    x = normal(2003, 1)
    quantizer = fit(Quantizer(kind="lloyd-max", levels=8), x)
    tokens = quantizer.encode(x)
    means = torch.stack([x[tokens == level].double().mean() for level in range(8)])
    torch.testing.assert_close(means.float(), quantizer.centers[0], atol=1e-6, rtol=0)


def test_lloyd_max_of_the_normal_has_14_percent_less_error_at_8_levels():
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1))
    error = {kind: diagnostics(fit(Quantizer(kind=kind, levels=8), x), x)["mse"] for kind in ("gaussian", "lloyd-max")}
    assert 1 - error["lloyd-max"] / error["gaussian"] == pytest.approx(0.14, abs=0.02)


def test_quantile_bins_hold_equal_shares():
    x = normal(6400, 1)
    counts = torch.bincount(fit(Quantizer(kind="quantile", levels=4), x).encode(x).flatten())
    assert (counts.max() - counts.min()) / 6400 < 0.1  # nearest value, not interval: close to a quarter each


@pytest.mark.parametrize("kind", ["quantile", "lloyd-max"])
def test_more_levels_than_values_are_refused(kind):
    x = torch.arange(30.0).reshape(10, 3) // 6  # 5 distinct values
    assert fit(Quantizer(kind=kind, levels=5), x).centers.tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(UserError, match="levels=6 must be at most 5, the number of distinct values"):
        fit(Quantizer(kind=kind, levels=6), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_must_be_finite(bad):
    x = normal(11)
    x[3, 1] = bad
    with pytest.raises(UserError, match="latents hold 1 values that are NaN or infinite"):
        fit(Quantizer(), x)


def test_identity_keeps_every_value():
    x = normal(11)
    quantizer = fit(Quantizer(kind="identity"), x)
    assert isinstance(quantizer, IdentityQuantizer)
    assert torch.equal(quantizer.decode(quantizer.encode(x)), x)
    assert diagnostics(quantizer, x)["mse"] == 0


@pytest.mark.parametrize(("kind", "per"), ALL)
def test_values_at_and_beside_midpoints_go_to_the_right_level(kind, per):
    """The cells of the look-up agree with a search to the last bit: at every midpoint, just below and just above."""
    quantizer = fit(Quantizer(kind=kind, per=per, levels=37), normal())
    assert quantizer.grid is not None
    middle = quantizer.midpoints.expand(3, -1).T
    for x in (middle, middle.nextafter(torch.tensor(-9.0)), middle.nextafter(torch.tensor(9.0)), middle * 0 - 50):
        expected = torch.searchsorted(quantizer.midpoints.expand(3, -1).contiguous(), x.T.contiguous()).T
        assert torch.equal(quantizer.encode(x), expected)


def test_levels_too_close_for_a_grid_are_searched():
    centers = torch.tensor([[0.0, 1e-6, 2e-6, 1e6]])
    quantizer = ScalarQuantizer(centers, torch.tensor([[0.0], [1e6]]))
    assert quantizer.grid is None
    assert quantizer.encode(torch.tensor([[-1.0], [1.1e-6], [1e-5], [9e5]])).flatten().tolist() == [0, 1, 2, 3]


def test_encoding_takes_no_memory_per_level():
    x = normal(100_003, 1)
    quantizer = fit(Quantizer(levels=512), x)
    assert isinstance(quantizer, ScalarQuantizer)
    with torch.profiler.profile(profile_memory=True) as profile:
        quantizer.encode(x)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 16 * x.numel(), "not a number a level"


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (11,), (2, 3, 5), (0, 3), ()])
@pytest.mark.parametrize("kind", ["gaussian", "identity", "quantile"])
def test_fit_takes_rows_of_positions_alone(kind, shape):
    """Latents of images (B, C, h, w) would be cut along the wrong axis."""
    with pytest.raises(UserError, match=r"must be \(N, C\), a row per position") as error:
        fit(Quantizer(kind=kind, levels=4), torch.zeros(shape))
    assert "\n" not in str(error.value)


def test_levels_that_float32_does_not_tell_apart():
    with pytest.raises(UserError, match="lie closer than float32 tells apart") as error:
        fit(Quantizer(edges="truncated", std_range=1e-12), normal())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "quantile", "lloyd-max"])
def test_a_constant_channel_has_no_levels_of_its_own(kind):
    latents = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    latents[:, 1] = 0.3
    with pytest.raises(UserError, match=r"channel 1 of the latents is one value; take quantizer\.per=tensor"):
        fit(Quantizer(kind=kind, levels=8, per="channel"), latents)
    tokens = fit(Quantizer(kind=kind, levels=8), latents).encode(latents)
    assert len(tokens[:, 1].unique()) == 1


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_clipped_values_are_those_beyond_the_range_of_their_own_levels(kind):
    """Per channel the range is of its mean and deviation: 2.275 % of a normal's values lie beyond each of ±2."""
    spread, middle = torch.tensor([0.3, 1.0, 2.0]), torch.tensor([0.0, 1.0, -3.0])
    x = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1)) * spread + middle
    shares = {}
    for per in ("tensor", "channel"):
        wanted = Quantizer(kind=kind, levels=8, range=2, per=per)
        shares[per] = diagnostics(fit(wanted, x), x, range_of(wanted, x))["clipped"]
    assert shares["channel"] == pytest.approx(2 * stats.norm.sf(2), rel=0.03)
    assert shares["tensor"] == pytest.approx(
        np.mean([stats.norm.sf(2, m, s) + stats.norm.cdf(-2, m, s) for m, s in zip(middle, spread, strict=True)]),
        rel=0.01,
    )
    assert range_of(Quantizer(kind="quantile", levels=8), x) is None
