"""Fréchet distance against its definition, torch-fidelity and clean-fid."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tokenbridge.config import UserError
from tokenbridge.metrics import frechet
from tokenbridge.metrics.frechet import (
    LARGE,
    extrapolated,
    frechet_distance,
    frechet_left_out,
    from_features,
    from_moments,
    jackknife_error,
    jackknife_groups,
)

F = 13


def correlated(n: int, f: int = F, seed: int = 0, shift: float = 0.0, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, rank or f)) @ rng.normal(size=(rank or f, f)) + shift + rng.normal(size=f)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def definition(x: np.ndarray, y: np.ndarray) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½), each square root by scipy."""
    (m1, c1), (m2, c2) = moments(x), moments(y)
    root = scipy.linalg.sqrtm(c1)
    return float(np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(root @ c2 @ root)).real)


def forms(x: np.ndarray) -> dict:
    return {"features": x, "statistics": from_features(x), "file": from_moments(*moments(x))}


FULL = (correlated(101, seed=1), correlated(211, seed=2, shift=0.3))


@pytest.mark.parametrize("first", ["features", "statistics", "file"])
@pytest.mark.parametrize("second", ["features", "statistics", "file"])
def test_equals_the_definition_in_every_form(first, second):
    x, y = FULL
    assert frechet_distance(forms(x)[first], forms(y)[second]) == pytest.approx(definition(x, y), rel=1e-11)


def test_equals_torch_fidelity():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = FULL
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(v)) for v in FULL), False)
    assert frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_equals_clean_fid():
    from cleanfid.fid import fid_from_feats

    assert frechet_distance(*FULL) == pytest.approx(fid_from_feats(*FULL), rel=1e-6)


@pytest.fixture(scope="module")
def many_features() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of LARGE features, with spreads over two decades as those of a network have them."""
    rng = np.random.default_rng(7)
    spread = np.geomspace(0.02, 2, LARGE)
    return rng.normal(size=(LARGE + 103, LARGE)) * spread, rng.normal(size=(LARGE + 211, LARGE)) * spread[::-1] + 0.1


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_libraries_agree_on_many_features(many_features):
    """clean-fid, torch-fidelity and Cholesky's way, on the same features."""
    from cleanfid.fid import fid_from_feats
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    ours = frechet_distance(*many_features)
    assert from_features(many_features[0]).regular
    pair = [fid_features_to_statistics(torch.from_numpy(x)) for x in many_features]
    assert ours == pytest.approx(fid_statistics_to_metric(*pair, False)["frechet_inception_distance"], rel=1e-6)
    assert ours == pytest.approx(fid_from_feats(*many_features), rel=1e-6)


def test_cholesky_way_equals_the_singular_values(many_features, monkeypatch):
    """Distances, those without each group of a jackknife, statistics of a file, and with covariances of low rank."""
    x, y = many_features
    low = x.copy()
    low[:, :200] = 0  # dead features
    group = np.arange(len(x)) % 3

    def numbers() -> list[float]:
        file = from_moments(*moments(y))
        pairs = ((x, y), (low, file), (x[:50], file))
        return [*(frechet_distance(*pair) for pair in pairs), *frechet_left_out(x, file, group)]

    fast = numbers()
    monkeypatch.setattr(frechet, "LARGE", 10 * LARGE)
    assert fast == pytest.approx(numbers(), rel=1e-9)


@pytest.mark.parametrize("small", [1e-9, 1e-8, 1e-7, 1e-6])
def test_wide_spectra_lose_nothing(small):
    """20 features that vary as 1 and 492 as little as this, turned into each other."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(LARGE, LARGE)))[0]
    scale = np.sqrt(np.where(np.arange(LARGE) < 20, 1.0, small))
    x, y = (rng.normal(size=(600, LARGE)) * scale @ turn for _ in range(2))
    assert frechet_distance(x, x) < 1e-9
    roots = [np.linalg.qr(each - each.mean(0), mode="r") / np.sqrt(599) for each in (x, y)]
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    exact = np.sum((x.mean(0) - y.mean(0)) ** 2) + sum(np.sum(root**2) for root in roots) - 2 * common
    assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-8)


def test_extrapolation_takes_off_the_bias_of_few_images():
    """Of samples from the reference's own distribution, whose distance falls as 1/N, it is nearly 0."""
    rng = np.random.default_rng(8)
    reference = from_moments(np.zeros(F), np.eye(F))
    for n in (400, 800):
        found = [rng.normal(size=(n, F)) for _ in range(20)]
        plain = np.mean([frechet_distance(x, reference) for x in found])
        assert abs(np.mean([extrapolated(x, reference) for x in found])) < plain / 5
    with pytest.raises(UserError, match="51 images must be at least 52"):
        extrapolated(np.zeros((51, F)), reference)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (5, 101), (101, 5)])
def test_exact_where_images_are_fewer_than_features(n, m):
    """In the plane that both sets span, the covariances are regular and the definition holds to full precision."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(31, 3)))[0].T
    x, y = correlated(n, 3, seed=4), correlated(m, 3, seed=5)
    assert frechet_distance(x @ basis, y @ basis) == pytest.approx(definition(x, y), rel=1e-12)
    assert frechet_distance(x @ basis, from_moments(*moments(y @ basis))) == pytest.approx(definition(x, y), rel=1e-9)


@pytest.mark.parametrize("rank", [None, 2])
def test_of_a_set_with_itself_is_zero_and_never_below(rank):
    for n in (2, 5, 101):
        x = correlated(n, rank=rank)
        for other in forms(x).values():
            distance = frechet_distance(x, other)
            assert 0 <= distance < 1e-6 * np.trace(np.atleast_2d(np.cov(x, rowvar=False)))
        assert frechet_distance(x, x) < 1e-12 * np.trace(np.atleast_2d(np.cov(x, rowvar=False)))


def test_one_dimension_by_hand():
    x, y = np.array([[0.0], [2.0]]), np.array([[3.0], [9.0]])  # means 1 and 6, deviations √2 and √18
    assert frechet_distance(x, y) == pytest.approx(25 + (np.sqrt(18) - np.sqrt(2)) ** 2)


def test_constant_features_have_the_distance_of_their_means():
    assert frechet_distance(np.zeros((3, F)), np.ones((40, F))) == pytest.approx(F)
    assert frechet_distance(np.zeros((3, F)), from_moments(np.ones(F), np.zeros((F, F)))) == pytest.approx(F)


def test_float32_files_are_accepted():
    x, y = FULL
    mu, sigma = (v.astype(np.float32) for v in moments(y @ np.diag([1.0] * 3 + [0.0] * (F - 3))))
    low = y.copy()
    low[:, 3:] = 0
    assert frechet_distance(x, from_moments(mu, sigma)) == pytest.approx(frechet_distance(x, low), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: frechet_distance(FULL[0], FULL[1][:, :5]), "widths 13 and 5"),
        (lambda: frechet_distance(FULL[0][:1], FULL[1]), "first features of 1 images must have at least 2"),
        (
            lambda: frechet_distance(FULL[0], np.where(np.eye(101, F), np.nan, 1.0)),
            "13 of 1313 values in second features",
        ),
        (lambda: frechet_distance(FULL[0], np.full((3, F), np.inf)), "not finite"),
        (lambda: frechet_distance(FULL[0], FULL[1].ravel()), "two axes"),
        (lambda: from_moments(np.zeros(3), np.eye(4)), r"mu \(3,\) and sigma \(4, 4\)"),
        (lambda: from_moments(np.zeros(3), -np.eye(3)), "eigenvalues >= 0"),
        (lambda: from_moments(np.zeros(3), np.triu(np.ones((3, 3)))), "symmetric"),
        (lambda: from_moments([0.0, np.nan], np.eye(2)), "mu of statistics are not finite"),
        (lambda: frechet_left_out(FULL[0][:3], FULL[1], jackknife_groups([0, 1, 2], 2)), "too few"),
    ],
)
def test_unusable_input_is_refused(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_groups_hold_equal_shares_of_each_class():
    labels = np.arange(2000) % 10  # as the sample stage orders them
    groups = jackknife_groups(labels)
    table = np.zeros((20, 10), int)
    np.add.at(table, (groups, labels), 1)
    assert (table == 10).all()
    uneven = jackknife_groups(np.repeat([0, 1, 2], [3, 5, 30]), 7)
    assert set(np.bincount(uneven)) == {5, 6}


def test_standard_error_equals_the_spread_over_repeated_draws():
    """One jackknife set's error against the deviation of the distance over 200 independent sets."""
    rng = np.random.default_rng(6)
    reference = from_features(rng.normal(size=(4001, 3)))
    labels = np.zeros(500)
    draws = [rng.normal(size=(500, 3)) * 1.3 + 0.5 for _ in range(200)]
    spread = np.std([frechet_distance(x, reference) for x in draws], ddof=1)
    errors = [jackknife_error(frechet_left_out(x, reference, jackknife_groups(labels))) for x in draws[:20]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)
