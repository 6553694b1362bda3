"""PGD against the peers': equal step by step from the same start, on tensors that benchmarks/golden.py wrote."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.golden import FILE, PEERS, STEPS, THREATS, network
from lib.attacks.pgd import input_gradient, pgd
from lib.values.attacks import PGD

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def golden():
    return load_file(FILE)


def test_the_gradient_is_the_one_noted(golden):
    _, _, grad = input_gradient(
        network(golden), golden["images"], lambda z: F.cross_entropy(z, golden["labels"], reduction="none"))
    torch.testing.assert_close(grad, golden["gradient"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", range(STEPS + 1))
@pytest.mark.parametrize("norm", list(THREATS))
@pytest.mark.parametrize("peer", list(PEERS))
def test_every_iterate_is_the_peers(golden, peer, norm, steps):
    threat, size = THREATS[norm]
    iterates = golden[f"{peer}.{norm}"]
    noise = (iterates[0] - golden["images"]) / float(threat.eps)
    found = pgd(network(golden), golden["images"], golden["labels"], threat, PGD(steps, size), noise=noise)
    torch.testing.assert_close(found, iterates[steps], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", list(THREATS))
@pytest.mark.parametrize("peer", list(PEERS))
def test_the_golden_attacks_go_somewhere(golden, peer, norm):
    """Iterates differ, touch the ball and the ends of [0, 1]: a comparison of standing attacks would hold nothing."""
    threat, _ = THREATS[norm]
    iterates, net = golden[f"{peer}.{norm}"], network(golden)
    with torch.no_grad():
        losses = [F.cross_entropy(net(x), golden["labels"]) for x in iterates]
    assert losses[-1] > losses[0] + 0.1
    last = (iterates[-1] - golden["images"]).flatten(1)
    size = last.abs().amax(1) if norm == "linf" else last.norm(dim=1)
    assert (size > 0.99 * float(threat.eps)).any() and (size <= float(threat.eps) + 1e-6).all()
    assert (iterates[-1] == 1).any() and (iterates[-1] == 0).any()
