"""Writes tests/golden/peers.safetensors: what the peers' PGD does on a tiny network, step by step.

    benchmarks/.venv/bin/python -m benchmarks.golden

tests/house/test_peers.py compares lib with it, so that the tests need no peer installed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import peers
from lib.runtime import ROOT, generator
from lib.values.attacks import PGD
from lib.values.threats import Threat

FILE = ROOT / "tests" / "golden" / "peers.safetensors"
THREATS = {"linf": (Threat("linf", "8/255"), "2/255"), "l2": (Threat("l2", "1/2"), "1/8")}
STEPS = 6
PEERS = {"torchattacks": peers.torchattacks_pgd, "foolbox": peers.foolbox_pgd}


def network(tensors: dict[str, Tensor]) -> nn.Module:
    """A convolution, a smooth non-linearity and a linear layer with the given weights: 8x8 images to 4 classes."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    net.load_state_dict({name: tensors[name] for name in net.state_dict()})
    return net.eval()


def tensors() -> dict[str, Tensor]:
    """Weights, images, labels, the gradient of the cross-entropy, and for each peer and norm the iterates from the same
    start, [STEPS + 1, 4, 3, 8, 8], the start first.
    """
    draw = generator("golden peers")
    out = {
        "0.weight": torch.randn(8, 3, 3, 3, generator=draw),
        "0.bias": torch.randn(8, generator=draw),
        "3.weight": torch.randn(4, 128, generator=draw) / 16,
        "3.bias": torch.randn(4, generator=draw),
        "images": torch.rand(4, 3, 8, 8, generator=draw),
        "labels": torch.randint(0, 4, (4,), generator=draw),
    }
    net, x, y = network(out), out["images"], out["labels"]
    leaf = x.clone().requires_grad_()
    out["gradient"], = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
    for peer, made in PEERS.items():
        for norm, (threat, size) in THREATS.items():
            iterates = []
            for steps in range(STEPS + 1):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)  # the peers draw from the global generator: the same start for every length
                    iterates.append(made(threat, PGD(steps, size))(net, x, y).detach())
            out[f"{peer}.{norm}"] = torch.stack(iterates)
    return out


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors().items()}, FILE)
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")
