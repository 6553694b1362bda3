"""Verdicts per image, their protocol, and the checks that tell when a robust accuracy means nothing."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.data.images import ImageSet
from lib.errors import SettingsError
from lib.runtime import generator, initialise_with
from lib.threats import APGD, PGD, AutoAttack, Threat, fgsm
from lib.training.evaluation import Outcomes, attack_name, evaluate, sanity

THREAT = Threat("linf", "36/255")
PROTOTYPES = torch.rand(4, 1, 8, 8, generator=generator("prototypes"))
NOISE = generator("a random network")


def pictures(n, seed):
    labels = torch.arange(n) % 4
    noise = torch.randn(n, 1, 8, 8, generator=generator("noise", seed))
    pixels = (PROTOTYPES[labels] + 0.3 * noise).clamp(0, 1)
    return ImageSet((pixels * 255).round().to(torch.uint8), labels, torch.arange(n) * 3 + 7, "made up", "test")


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    with initialise_with("test network"):
        net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2),
                            nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    optimiser, images = torch.optim.Adam(net.parameters(), 3e-3), pictures(512, "train")
    for _ in range(3):
        for part in torch.arange(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images.pixels(part)), images.labels[part]).backward()
            optimiser.step()
    return net


@pytest.fixture(scope="module")
def images():
    images = pictures(80, "test")
    images.labels[:5] = (images.labels[:5] + 1) % 4  # so that some are classified wrongly
    return images


def test_clean_verdicts_are_those_of_the_network_in_eval_mode(net, images):
    out = evaluate(net, images, batch_size=7)
    expected = net.eval()(images.pixels()).argmax(1) == images.labels
    net.train()
    assert out.table["clean"].tolist() == expected.tolist()
    assert out.table["index"].tolist() == images.indices.tolist()
    assert out.accuracy() == pytest.approx(expected.float().mean().item()) and 0.5 < out.accuracy() < 1
    assert "robust" not in out.table
    with pytest.raises(SettingsError, match="robust"):
        out.accuracy("robust")


@pytest.mark.parametrize("attack", [PGD(10, "10/255"), APGD(8, targets=2), fgsm(THREAT), AutoAttack()],
                         ids=attack_name)
def test_robust_images_are_clean_ones_that_survive(net, images, attack, monkeypatch):
    from lib.attacks import auto

    monkeypatch.setattr(auto, "_square", lambda search: None)  # the slow one, which tests/test_attacks.py has
    some = images.take(torch.arange(40))
    out = evaluate(net, some, THREAT, attack, seed_parts=("seed", 1))
    assert not (out.table["robust"] & ~out.table["clean"]).any()
    assert 0 <= out.accuracy("robust") < out.accuracy("clean")
    assert out.protocol["eps"] == "12/85" and out.protocol["threat"] == "linf" and out.protocol["images"] == 40
    assert out.protocol["attack"] == attack_name(attack) and out.protocol["seed"] == "seed 1"
    assert {"data", "split", "precision", "batchnorm", "search_precision"} <= set(out.protocol)
    assert all(isinstance(value, (str, int, float)) for value in out.protocol.values())


def test_a_verdict_does_not_depend_on_the_rest_of_the_set(net, images):
    whole = evaluate(net, images, THREAT, PGD(10, "10/255")).table.set_index("index")
    part = evaluate(net, images.take(torch.arange(79, 20, -2)), THREAT, PGD(10, "10/255"), batch_size=8).table
    assert (whole.loc[part["index"], "robust"].tolist() != part["robust"]).sum() <= 1


def test_bf16_search_gives_verdicts_near_those_of_fp32(net, images):
    pair = [evaluate(net, images, THREAT, PGD(10, "10/255"), search_precision=p) for p in ("fp32", "bf16")]
    assert abs(pair[0].accuracy("robust") - pair[1].accuracy("robust")) < 0.05
    assert pair[1].protocol["search_precision"] == "bf16" and pair[1].protocol["precision"] == "fp32"


def test_eps_zero_is_clean_and_a_huge_eps_leaves_nothing(net, images):
    zero = evaluate(net, images, Threat("l2", 0), PGD(5, "1/10"))
    assert zero.table["robust"].tolist() == zero.table["clean"].tolist()
    assert evaluate(net, images, Threat("linf", "1/2"), PGD(20, "1/20")).accuracy("robust") < 0.03


def test_the_network_is_left_as_it_was(net, images):
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    evaluate(net, images, THREAT, PGD(2, "1/50"))
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_outcomes_refuse_a_robust_image_that_is_not_clean():
    with pytest.raises(RuntimeError, match="12"):
        Outcomes(pd.DataFrame({"index": [11, 12], "label": [0, 1], "clean": [True, False], "robust": [True, True]}))


def test_balanced_accuracy_weighs_classes_alike():
    table = pd.DataFrame({"index": range(5), "label": [0, 0, 0, 0, 1], "clean": [True] * 4 + [False],
                          "robust": [True, True, False, False, False]})
    assert Outcomes(table).balanced_accuracy() == 0.5 and Outcomes(table).accuracy() == 0.8
    assert Outcomes(table).balanced_accuracy("robust") == 0.25


@pytest.mark.parametrize("call", [
    lambda net, images: evaluate(net, images, THREAT),
    lambda net, images: evaluate(net, images, None, PGD(1, 1)),
    lambda net, images: evaluate(net, images, batch_size=0),
    lambda net, images: evaluate(net, images.take(slice(0, 0))),
    lambda net, images: evaluate(net, images, THREAT, PGD(1, 1), search_precision="fp16"),
    lambda net, images: evaluate(net, images, THREAT, PGD(1, 1, targeted=True)),
])
def test_impossible_evaluations_are_refused(net, images, call):
    with pytest.raises(SettingsError):
        call(net, images)


@pytest.mark.parametrize("attack, name", [
    (PGD(20, "2/255"), "PGD-20"), (PGD(50, "2/255", restarts=10), "PGD-50 (10 restarts)"), (fgsm(THREAT), "FGSM"),
    (PGD(20, "2/255", loss="cw", random_start=False), "PGD-20 (CW, no random start)"),
    (APGD(20, targets=3), "APGD-CE+T (20 steps, 3 targets)"), (APGD(20, targets=0), "APGD-CE (20 steps)"),
    (APGD(100, restarts=2, targets=1), "APGD-CE+T (100 steps, 1 target, 2 restarts)"), (AutoAttack(), "AutoAttack"),
])
def test_attack_names(attack, name):
    assert attack_name(attack) == name


# ------------------------------------------------------------------------------------------------------------- sanity


class Wrapped(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sound_network_passes(net, images, norm):
    assert sanity(net, images, norm) == []


@pytest.mark.parametrize("change, words", [
    (lambda net, x: net(x).softmax(1), "probabilities"),
    (lambda net, x: net(x + 0.1 * torch.randn(x.shape, generator=NOISE)), "random"),
    (lambda net, x: net(x).round() + 0 * x.sum(), "zero gradient"),
    (lambda net, x: net(x.detach().gt(0.5).float()) + 0 * x.sum(), "survive"),
    (lambda net, x: net(x) / 0, "not finite"),
    (lambda net, x: net(x) + (x.sum((1, 2, 3)) * 0).sqrt()[:, None], "gradients are not finite"),
])
def test_networks_that_fool_attacks_are_noticed(net, images, change, words):
    assert any(words in sentence for sentence in sanity(Wrapped(net, change), images))


def test_pixels_outside_the_range_are_noticed(net, images, monkeypatch):
    monkeypatch.setattr(ImageSet, "pixels", lambda self, sel=None: self.images.float())
    assert any("outside [0, 1]" in sentence for sentence in sanity(net, images))
