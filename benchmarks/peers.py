"""What lib is compared with: training loops as repositories write them, and the attacks of other packages.

The loops get the best that their style allows: the images already lie on the device as floats, so that only the steps
are compared. Every loop uses the layout that torch makes networks in (NCHW) and fp32, if it does not say bf16.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.values.attacks import PGD
from lib.values.threats import Threat

BF16 = ", in bf16 autocast"  # ends the name of a peer that runs so
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def titled(package: str) -> str:
    """The package with its version."""
    return f"{package} {importlib.metadata.version(package)}"


@contextlib.contextmanager
def tf32(allowed: bool):
    """Whether convolutions on a GPU may round to TF32 inside: torch's default, which lib does not allow."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def in_bf16(search: Attack) -> Attack:
    """The search with every pass of the network in bf16 autocast, as a user would switch it on."""

    def autocast(net, x, y):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return search(net, x, y)

    return autocast


def train(net: nn.Module, pixels: Tensor, labels: Tensor, batch_size: int, lr: float, attack: Attack | None,
          bf16: bool = False) -> float:
    """One epoch of plain training of `net` on pixels [N, C, H, W] in [0, 1], under `attack` if there is one; returns
    the mean loss. bf16: whether the network's passes, those of the attack too, run in bf16 autocast.
    """
    attack = in_bf16(attack) if attack and bf16 else attack
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    losses = []
    net.train()
    for x, y in zip(pixels.split(batch_size), labels.split(batch_size), strict=True):
        if attack:
            net.eval()
            x = attack(net, x, y)
            net.train()
        optimiser.zero_grad()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _steps(x: Tensor, threat: Threat, attack: PGD, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    eps, size = float(threat.eps), float(attack.step_size)
    x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(attack.steps):
        x_adv = x_adv + size * gradient(x_adv).sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def with_weight_gradients(threat: Threat, attack: PGD) -> Attack:
    """linf PGD by `loss.backward()`, which at every step also forms the gradients of the weights."""

    def search(net, x, y):
        def gradient(x_adv):
            x_adv = x_adv.detach().requires_grad_()
            F.cross_entropy(net(x_adv), y).backward()
            return x_adv.grad

        return _steps(x, threat, attack, gradient)

    return search


def for_the_input_only(threat: Threat, attack: PGD) -> Attack:
    """linf PGD by `torch.autograd.grad` of the loss by the images, as the package robustness does it."""

    def search(net, x, y):
        def gradient(x_adv):
            x_adv = x_adv.detach().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(net(x_adv), y), x_adv)[0]

        return _steps(x, threat, attack, gradient)

    return search


def torchattacks_pgd(threat: Threat, attack: PGD) -> Attack:
    """PGD of torchattacks, in linf or l2."""
    import torchattacks

    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[threat.norm]

    def search(net, x, y):
        options = {"eps": float(threat.eps), "alpha": float(attack.step_size), "steps": attack.steps}
        return kind(net, **options, random_start=attack.random_start)(x, y)

    return search


def foolbox_pgd(threat: Threat, attack: PGD) -> Attack:
    """PGD of foolbox, in linf or l2; the network must be in eval mode."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports git for its model zoo
    import foolbox

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[threat.norm]

    def search(net, x, y):
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device)
        run = kind(abs_stepsize=float(attack.step_size), steps=attack.steps, random_start=attack.random_start)
        return run.run(model, x, foolbox.criteria.Misclassification(y), epsilon=float(threat.eps))

    return search
