"""Measures of similarity: their invariances, formulae against each other, and values that are known."""

import numpy as np
import pytest
import torch

from lib.errors import SettingsError
from lib.representations.gram import Centred, double_centred, u_centred
from lib.runtime import generator
from lib.similarity import INVARIANCES, MEASURES, compare, named

N, P, Q = 200, 30, 40
ALL = sorted(MEASURES)


def normal(*shape, key=""):
    return torch.randn(*shape, generator=generator("similarity", key, shape), dtype=torch.float64)


def pair(p=P, q=Q, n=N, shared=4):
    """Two representations with unequal spectra that share some directions."""
    common = normal(n, shared, key="common")
    sides = []
    for key, width in (("x", p), ("y", q)):
        own = normal(n, width, key=key) * torch.linspace(1.5, 0.2, width, dtype=torch.float64)
        sides.append(own + common @ normal(shared, width, key=key + "mix"))
    return sides


def transformed(x, how):
    p = x.shape[1]
    if how == "rotation":
        return x @ torch.linalg.qr(normal(p, p, key="rotation"))[0]
    if how == "linear":
        u, _, v = torch.linalg.svd(normal(p, p, key="linear"))
        return x @ (u * torch.linspace(0.3, 3, p, dtype=torch.float64)) @ v
    if how == "permutation":
        return x[:, torch.randperm(p, generator=generator("permutation"))]
    return {"scaling": 7.3 * x, "shift": x + 100 * normal(p, key="shift")}[how]


@pytest.mark.parametrize("sizes", [(P, Q), (P, P), (Q, P), (3 * N, 2 * N)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_declared_invariances_hold_and_the_others_do_not(name, sizes):
    if max(sizes) >= N and not named(name).takes_grams:
        pytest.skip("needs fewer features than images")
    x, y = pair(*sizes)
    value = compare(x, y, name)
    for how in INVARIANCES:
        changed = max(abs(compare(transformed(x, how), y, name) - value),
                      abs(compare(x, transformed(y, how), name) - value))
        if how in named(name).invariances:
            assert changed < 1e-8, f"{how} changes {name} by {changed}"
        else:
            assert changed > 1e-3, f"{how} leaves {name} unchanged and should be declared"


@pytest.mark.parametrize("name", ALL)
def test_every_measure_is_symmetric_one_with_itself_and_blind_to_the_order_of_images(name):
    order = torch.randperm(N, generator=generator("order"))
    for sizes in ((P, Q), (P, P)):
        x, y = pair(*sizes)
        value = compare(x, y, name)
        assert compare(y, x, name) == pytest.approx(value, abs=1e-10)
        assert compare(x[order], y[order], name) == pytest.approx(value, abs=1e-10)
        assert abs(compare(x[order], y, name) - value) > 1e-3
        assert 0.02 < value < 0.98
        assert compare(x, x, name) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", [name for name in ALL if named(name).takes_grams])
def test_both_spaces_give_the_same(name):
    """Columns of zeros turn p < n into p > n, and nothing else."""
    x, y = pair()
    wide = torch.cat([x, torch.zeros(N, N)], 1)
    assert compare(wide, y, name) == pytest.approx(compare(x, y, name), abs=1e-9)


def three_traces(x, y):
    """HSIC1 by its definition: three traces of uncentred Grams without their diagonals."""
    k, m = (z @ z.T - torch.diag((z @ z.T).diagonal()) for z in (x, y))
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    return ((k @ m).trace() + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_three_formulae_of_the_unbiased_estimator_agree():
    x, y = pair(n=50)
    k, m = (u_centred(z @ z.T) for z in (x, y))
    traces = float(three_traces(x, y))
    assert float((k * m).sum()) / (50 * 47) == pytest.approx(traces, rel=1e-12)
    expected = traces / float((three_traces(x, x) * three_traces(y, y)).sqrt())
    assert compare(x, y) == pytest.approx(expected, abs=1e-12)  # feature space
    assert compare(torch.cat([x, torch.zeros(50, 50)], 1), y) == pytest.approx(expected, abs=1e-12)  # Gram


def test_procrustes_is_the_best_rotation():
    """1 - d/2 with d the least squared distance over rotations; a known rotation is found."""
    x, _ = pair()
    x, y = x - x.mean(0), transformed(x, "rotation") + 0.3 * normal(N, P, key="noise")
    a, b = x / x.norm(), (y - y.mean(0)) / (y - y.mean(0)).norm()
    u, _, v = torch.linalg.svd(a.T @ b)
    distance = float((a @ (u @ v) - b).square().sum())
    assert compare(x, y, "procrustes") == pytest.approx(1 - distance / 2, abs=1e-10)
    assert all(float((a @ torch.linalg.qr(normal(P, P, key=k))[0] - b).square().sum()) > distance for k in range(5))


def test_canonical_correlations_that_are_known():
    basis = torch.linalg.qr(torch.cat([torch.ones(N, 1, dtype=torch.float64), normal(N, 6, key="basis")], 1))[0][:, 1:]
    cosines = torch.tensor([0.9, 0.6, 0.2], dtype=torch.float64)
    x, y = basis[:, :3], basis[:, :3] * cosines + basis[:, 3:] * (1 - cosines**2).sqrt()
    mixed = transformed(y, "linear")
    assert compare(transformed(x, "linear"), mixed, "cca") == pytest.approx(1.7 / 3, abs=1e-9)
    # a fourth direction of y explains the first one of x fully, and makes y the one of higher rank: the weights are
    # those of x, whose neurons lie along the directions with sizes 5, 1 and 1
    wide = torch.cat([mixed, basis[:, 3:4]], 1)
    assert compare(x, wide, "cca") == pytest.approx(1.8 / 3, abs=1e-9)
    weighted = x * torch.tensor([5.0, 1, 1], dtype=torch.float64)
    for one, other in ((weighted, wide), (wide, weighted)):
        assert compare(one, other, "pwcca") == pytest.approx((5 * 1 + 0.6 + 0.2) / 7, abs=1e-9)


def test_pwcca_takes_the_neurons_of_the_smaller_network():
    """Spread over other neurons, the larger network's weights would change the value, the smaller one's do."""
    x, y = pair()
    value = compare(x, y, "pwcca")
    assert compare(x, transformed(y, "linear"), "pwcca") == pytest.approx(value, abs=1e-9)
    assert abs(compare(transformed(x, "linear"), y, "pwcca") - value) > 1e-3


def test_svcca_sees_twenty_directions():
    x, y = pair()
    top = [z - z.mean(0) for z in (x, y)]
    top = [torch.linalg.svd(z, full_matrices=False) for z in top]
    reduced = [u[:, :20] * s[:20] for u, s, _ in top]
    assert compare(x, y, "svcca") == pytest.approx(compare(*reduced, "cca"), abs=1e-9)
    assert abs(compare(x, y, "svcca") - compare(x, y, "cca")) > 1e-3


@pytest.mark.parametrize("n,p,biased", [(64, 4096, 0.99), (256, 4096, 0.94), (256, 256, 0.5)])
def test_plain_cka_is_inflated_for_unrelated_features_and_the_unbiased_one_is_not(n, p, biased):
    x, y = normal(n, p, key="left"), normal(n, p, key="right")
    assert compare(x, y, "cka_biased") == pytest.approx(biased, abs=0.01)
    assert abs(compare(x, y, "cka")) < 4 / (n * (n - 3) / 2) ** 0.5, "4 standard errors of as many independent products"


def test_both_estimators_meet_when_there_are_many_more_images_than_features():
    x, y = pair(5, 6, 4000)
    assert compare(x, y, "cka") == pytest.approx(compare(x, y, "cka_biased"), abs=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_constant_features_have_no_similarity(name):
    _, y = pair()
    for x in (torch.zeros(N, P), torch.full((N, P), 0.1), torch.rand(P).expand(N, P).float()):
        assert np.isnan(compare(x, y, name)) and np.isnan(compare(y, x, name))


def test_equidistant_images_have_no_unbiased_similarity():
    """K = I has nothing left after U-centring; fp32 would make a number of the rest."""
    _, y = pair()
    assert np.isnan(compare(torch.eye(N), y)) and 0 < compare(torch.eye(N), y, "cka_biased") < 1


def test_arrays_and_lower_precision_are_welcome():
    x, y = pair()
    assert compare(x.numpy(), y.float()) == pytest.approx(compare(x, y), abs=1e-6)


@pytest.mark.parametrize("x,y,name,said", [
    (torch.rand(9, 2), torch.rand(9, 2), "ckaa", "did you mean 'cka'"),
    (torch.rand(9, 2), torch.rand(8, 2), "cka", "of the 9 images of x"),
    (torch.rand(3, 2), torch.rand(3, 2), "cka", "of at least 4 images"),
    (torch.rand(9, 2, 2), torch.rand(9, 2), "cka", r"shape \[images, features\]"),
    (torch.rand(9, 2), torch.full((9, 2), float("nan")), "cka", "must be finite"),
    (torch.rand(9, 9), torch.rand(9, 2), "cca", "pool them, reduce"),
    (torch.rand(9, 2), torch.rand(9, 20), "pwcca", "below the 9 images"),
])
def test_impossible_comparisons_are_named(x, y, name, said):
    with pytest.raises(SettingsError, match=said):
        compare(x, y, name)


def test_a_shift_by_a_hundred_standard_deviations_costs_fp32_nothing():
    x, y = (z.float() for z in pair(300, 300))
    exact = compare(x, y)
    far = [(z + 100 * z.std() * torch.randn(z.shape[1], generator=generator("far"))) for z in (x, y)]
    grams = [u_centred(Centred()(z)[0]) for z in far]
    cosine = float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))
    assert cosine == pytest.approx(exact, abs=1e-4)  # the shifted features themselves are rounded
    raw = [u_centred(z @ z.T) for z in far]
    naive = float((raw[0] * raw[1]).sum() / (raw[0].norm() * raw[1].norm()))
    assert abs(naive - exact) > 10 * abs(cosine - exact), "centring first is what makes the difference"


@pytest.mark.parametrize("n,p", [(7, 3), (64, 1000), (33, 70001)])
def test_grams_are_those_of_centred_features(n, p):
    x = normal(n, p, key="gram").float() + 3
    centred = x.double() - x.double().mean(0)
    gram, level = Centred()(x)
    assert torch.allclose(gram.double(), centred @ centred.T, rtol=0, atol=1e-6 * float(gram.max()))
    assert torch.equal(gram[: n // 2, n // 2:], gram[n // 2:, : n // 2].T)
    assert float(level) == pytest.approx(float(n * x.double().mean(0).square().sum()), rel=1e-5)
    shifted = double_centred(x.double() @ x.double().T)
    assert torch.allclose(shifted, centred @ centred.T, atol=1e-8 * p)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("features", [8, 32, 64, 500])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_half_precision_have_the_similarity_of_their_own_values(measure, features, dtype):
    x = torch.randn(256, features, generator=generator("half", features)).to(dtype)
    if features >= 256 and not MEASURES[measure].takes_grams:
        pytest.skip("more features than images")
    assert compare(x, x, measure) == pytest.approx(compare(x.double(), x.double(), measure), abs=1e-6)
    constant = torch.full_like(x, 0.3) * (1 + 1e-3 * torch.randn(256, 1, generator=generator("noise")).to(dtype))
    assert np.isnan(compare(constant, constant, measure)), "they differ by their rounding alone"


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
def test_features_of_any_size_have_a_similarity(size):
    x, y = (torch.randn(40, 6, dtype=torch.float64, generator=generator("size", k)) for k in "xy")
    assert compare(size * x, y) == pytest.approx(compare(x, y), rel=1e-9)
