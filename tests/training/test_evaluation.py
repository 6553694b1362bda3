"""Verdicts per image, their protocol, and the checks that tell when a robust accuracy means nothing."""

import copy

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks.geometry import norm_of
from lib.data.images import ImageSet
from lib.errors import SettingsError
from lib.runtime import generator, initialise_with
from lib.training.certification import certified
from lib.training.evaluation import Outcomes, adversarial, evaluate, sweep, transferred
from lib.training.sanity import beaten_by_square, sanity
from lib.values.attacks import APGD, PGD, AutoAttack, fgsm, tier
from lib.values.certificates import Bounds, Smoothing
from lib.values.threats import PIXEL_NORMS, Threat

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
                         ids=lambda attack: attack.title)
def test_robust_images_are_clean_ones_that_survive(net, images, attack, monkeypatch):
    from lib.attacks import auto

    monkeypatch.setattr(auto, "square", lambda pool, queries: None)  # the slow one, which has tests of its own
    some = images.take(torch.arange(40))
    out = evaluate(net, some, THREAT, attack, seed_parts=("seed", 1))
    assert not (out.table["robust"] & ~out.table["clean"]).any()
    assert 0 <= out.accuracy("robust") < out.accuracy("clean")
    by = out.table["broken_by"]
    assert ((by == "") == out.table["robust"]).all() and ((by == "clean") == ~out.table["clean"]).all()
    assert set(by) - {"", "clean"} <= {"PGD", "APGD-CE", "APGD-T", "FAB-T"} and by.nunique() > 2
    assert out.protocol["eps"] == "12/85" and out.protocol["threat"] == "linf" and out.protocol["images"] == 40
    assert out.protocol["attack"] == attack.title and out.protocol["seed"] == "seed 1"
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


def made_up(**verdicts):
    return Outcomes(pd.DataFrame({"index": [11, 12], "label": [0, 1], **verdicts}))


@pytest.mark.parametrize("strong, weak", [("robust", "clean"), ("verified", "clean"), ("verified", "robust")])
def test_outcomes_refuse_verdicts_that_contradict_each_other(strong, weak):
    made_up(**{weak: [True, False], strong: [True, False]})
    with pytest.raises(RuntimeError, match=f"12.*{strong}"):
        made_up(**{weak: [True, False], strong: [True, True]})


def test_bounds_stand_beside_an_attack_on_the_same_images_only():
    attacked, bounds = made_up(clean=[True, True], robust=[True, False]), made_up(verified=[True, False])
    assert attacked.with_bounds(bounds).accuracy("verified") == 0.5
    bounds.table["index"] = [12, 11]
    with pytest.raises(SettingsError, match="same images"):
        attacked.with_bounds(bounds)


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
    lambda net, images: evaluate(net, images, Threat("l2", 1, per="batch"), PGD(1, 1)),
    lambda net, images: adversarial(net, images, THREAT, PGD(1, 1, targeted=True)),
    lambda net, images: sweep(net, images, [THREAT, Threat("linf", "1/255")], [PGD(1, 1)] * 2),
    lambda net, images: sweep(net, images, [THREAT], []),
    lambda net, images: certified(net, images, Threat("l2", 1), Bounds()),
    lambda net, images: certified(net, images, THREAT, Smoothing(0.25)),
    lambda net, images: certified(net, images, None, Bounds()),
    lambda net, images: certified(net, images.take(slice(0, 0)), THREAT, Bounds()),
    lambda net, images: certified(nn.Sequential(net, nn.Sigmoid()), images, THREAT, Bounds()),
    lambda net, images: evaluate(net, images, Threat("l2", 1), Smoothing(0.25)),
    lambda net, images: sanity(net, images, "snow"),
])
def test_impossible_evaluations_are_refused(net, images, call):
    with pytest.raises(SettingsError):
        call(net, images)


# ---------------------------------------------------------------------------------------- growing eps, other networks

LADDER = [Threat("linf", f"{n}/255") for n in (0, 18, 36, 45)]
STEPS = [tier("pgd20", threat) for threat in LADDER]


def test_a_sweep_never_rises_and_attacks_only_survivors(net, images, monkeypatch):
    from lib.attacks import sweep as budgets

    attacked, search = [], budgets.break_images

    def counted(net, x, *args, **options):
        attacked.append(len(x))
        return search(net, x, *args, **options)

    monkeypatch.setattr(budgets, "break_images", counted)
    found = sweep(net, images, LADDER, STEPS)
    robust = [out.table["robust"] for out in found]
    assert all((later <= before).all() for before, later in zip(robust, robust[1:], strict=False))
    assert attacked == [found[0].table["clean"].sum(), *(verdicts.sum() for verdicts in robust[:-1])]
    assert robust[0].tolist() == found[0].table["clean"].tolist() and 0 < robust[-1].sum() < robust[1].sum()
    alone = evaluate(net, images, LADDER[1], STEPS[1])
    assert robust[1].tolist() == alone.table["robust"].tolist()
    assert found[2].protocol["eps"] == "12/85" and found[2].protocol["swept"] == "0 6/85 12/85"


@pytest.mark.parametrize("threat", [THREAT, Threat("l2", "4/5"), Threat("l1", 2), Threat("jpeg", 10)],
                         ids=lambda threat: threat.norm)
@pytest.mark.parametrize("make", [lambda t: tier("pgd20", t), lambda t: PGD(3, (t.eps or 1) / 2, restarts=2),
                                  lambda t: APGD(8, targets=2)], ids=["pgd20", "PGD-3", "APGD"])
def test_adversarial_images_break_what_the_search_breaks(net, images, threat, make):
    if threat.perceptual and isinstance(make(threat), APGD):
        pytest.skip("APGD searches balls of pixels")
    some, attack = images.take(torch.arange(40)), make(threat)
    moved = adversarial(net, some, threat, attack, seed_parts=("s",), batch_size=16)
    own, searched = transferred(net, some, moved).table, evaluate(net, some, threat, attack, seed_parts=("s",)).table
    # APGD in l1 picks the pixels it moves: where a processor rounds by the batch's size, one image may end otherwise
    few = 1 if threat.norm == "l1" and isinstance(attack, APGD) else 0
    assert (own["robust"] != searched["robust"]).sum() <= few and 0 < own["robust"].sum() < own["clean"].sum()
    assert moved.shape == some.images.shape and moved.dtype == torch.float32 and 0 <= moved.min() <= moved.max() <= 1
    assert ((moved - some.pixels()).flatten(1).abs().amax(1) > 0).all(), "what is classified wrongly is driven on too"
    if not threat.perceptual:
        assert (norm_of(moved - some.pixels(), threat.norm) <= float(threat.eps) * (1 + 1e-5)).all()


def test_another_network_withstands_more_of_what_is_made_for_this_one(net, images):
    with initialise_with("other network"):
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for _ in range(60):
        loss = F.cross_entropy(other(images.pixels()), images.labels)
        for p, grad in zip(other.parameters(), torch.autograd.grad(loss, list(other.parameters())), strict=True):
            p.data -= 0.5 * grad
    threat = Threat("linf", "1/3")
    attack = tier("pgd20", threat)
    moved = adversarial(net, images, threat, attack)
    there = transferred(other, images, moved)
    assert there.accuracy("robust") > transferred(net, images, moved).accuracy("robust")
    assert evaluate(other, images, threat, attack).accuracy("robust") < there.accuracy("robust") < there.accuracy()


# -------------------------------------------------------------------------------------------------------- certificates

SMALL = Threat("linf", "2/255")


@pytest.mark.parametrize("bounds", [Bounds(), Bounds("CROWN-IBP"), Bounds("CROWN")], ids=lambda attack: attack.title)
def test_what_bounds_verify_no_attack_breaks(net, images, bounds):
    proven = certified(net, images, SMALL, bounds, batch_size=32)
    both = evaluate(net, images, SMALL, tier("pgd20", SMALL)).with_bounds(proven)
    assert 0.1 < both.accuracy("verified") <= both.accuracy("robust") <= both.accuracy() == proven.accuracy()
    assert proven.protocol["attack"] == bounds.title and both.protocol["attack"] == "PGD-20"
    assert proven.protocol["threat"] == "linf" and proven.protocol["eps"] == "2/255"
    assert "seed" not in proven.protocol and "classifier" not in proven.protocol
    assert certified(net, images, Threat("linf", 0), bounds).accuracy("verified") == both.accuracy()


def test_linear_bounds_verify_more_where_intervals_prove_little(net, images):
    threat = Threat("linf", "6/255")
    proven = {method: certified(net, images, threat, Bounds(method)).table["verified"] for method in
              ("interval", "CROWN-IBP", "CROWN")}
    assert (proven["interval"] <= proven["CROWN-IBP"]).all() and (proven["CROWN-IBP"] <= proven["CROWN"]).all()
    assert proven["interval"].sum() < proven["CROWN-IBP"].sum() < proven["CROWN"].sum()


SMOOTHING = Smoothing(0.8, few=20, many=200, alpha=0.01)


def test_smoothing_gives_verdicts_of_the_smoothed_classifier(net, images):
    out = certified(net, images, Threat("l2", "0.3"), SMOOTHING, seed_parts=("seed", 1))
    table = out.table
    assert list(table) == ["index", "label", "clean", "verified", "radius"]
    assert 0.05 < out.accuracy("verified") < out.accuracy() < 1
    assert (table["verified"] == (table["clean"] & (table["radius"] >= 0.3))).all()
    assert (table["radius"][table["clean"]] > 0).all() and (table["radius"][~table["clean"]] > 0).any()
    assert (table["radius"] == 0).any(), "it abstains where the network hesitates"
    for name, value in {"attack": SMOOTHING.title, "sigma": 0.8, "few": 20, "many": 200, "alpha": 0.01,
                        "threat": "l2", "eps": "3/10", "classifier": "smoothed", "seed": "seed 1"}.items():
        assert out.protocol[name] == value
    row = out.row()
    assert row["clean"] == out.accuracy() and row["verified"] == out.accuracy("verified")
    nearer = certified(net, images, Threat("l2", "0.05"), SMOOTHING, seed_parts=("seed", 1))
    pd.testing.assert_frame_equal(nearer.table.drop(columns="verified"), table.drop(columns="verified"))
    assert nearer.accuracy("verified") > out.accuracy("verified")


def test_smoothed_verdicts_do_not_depend_on_the_rest_of_the_set(net, images):
    threat = Threat("l2", "0.3")
    whole = certified(net, images, threat, SMOOTHING).table.set_index("index")
    part = certified(net, images.take(torch.arange(79, 20, -2)), threat, SMOOTHING, batch_size=33).table
    assert ((whole.loc[part["index"], "radius"].to_numpy() - part["radius"].to_numpy()) != 0).sum() <= 1


def test_smoothing_says_nothing_about_the_network_itself(net, images):
    smoothed = certified(net, images, Threat("l2", "0.3"), SMOOTHING)
    attacked = evaluate(net, images, Threat("l2", "0.3"), PGD(2, "0.1"))
    for one, other in ((attacked, smoothed), (smoothed, certified(net, images, SMALL, Bounds()))):
        with pytest.raises(SettingsError, match="smoothing .* the network itself"):
            one.with_bounds(other)


def test_smoothing_that_is_killed_goes_on_with_the_same_verdicts(net, images, tmp_path, monkeypatch):
    from lib.certify import smoothing

    threat, certify, calls = Threat("l2", "0.3"), smoothing.certify, []
    whole = certified(net, images, threat, SMOOTHING)

    def killed(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return certify(*args, **options)

    monkeypatch.setattr(smoothing, "certify", killed)
    with pytest.raises(KeyboardInterrupt):
        certified(net, images, threat, SMOOTHING, work=tmp_path)
    resumed = certified(net, images, threat, SMOOTHING, work=tmp_path)
    assert sum(calls[4:]) == 80 - sum(calls[:3]), "what was found before the kill is not done again"
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    calls[:] = [0] * 4
    other = certified(net, images, threat, SMOOTHING, seed_parts=("other",), work=tmp_path)
    assert sum(calls) == 80 and (other.table["radius"] != whole.table["radius"]).any(), "another call has other notes"
    calls[:] = [0] * 4
    changed = copy.deepcopy(net)
    changed[0].weight.data += 0.1
    certified(changed, images, threat, SMOOTHING, work=tmp_path)
    assert sum(calls) == 80, "so has another network"


# ------------------------------------------------------------------------------------------------------------- sanity


class Wrapped(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net, x)


@pytest.mark.parametrize("norm", PIXEL_NORMS)
def test_a_sound_network_passes(net, images, norm):
    assert sanity(net, images, norm) == []


# What a network does to fool attacks, and a word of each sentence that it earns.
FOOLS = {
    "probabilities": (lambda net, x: net(x).softmax(1), ["probabilities"]),
    "random": (lambda net, x: net(x + 0.1 * torch.randn(x.shape, generator=NOISE)), ["random"]),
    "rounded logits": (lambda net, x: net(x).round() + 0 * x.sum(), ["zero gradient", "survive"]),
    "rounded pixels": (lambda net, x: net((x.detach() * 16).round() / 16) + 0 * x.sum(), ["zero gradient", "survive"]),
    "huge logits": (lambda net, x: 1e4 * net(x), ["zero gradient", "survive"]),
    "far logits": (lambda net, x: net(x) + 1e6, ["lost to rounding"]),
    "bf16": (lambda net, x: net(x).bfloat16(), ["lost to rounding"]),
    "NaN logits": (lambda net, x: net(x) / 0, ["logits are not finite"]),
    "NaN gradients": (lambda net, x: net(x) + (x.sum((1, 2, 3)) * 0).sqrt()[:, None],
                      ["gradients are not finite", "survive"]),
}


@pytest.mark.parametrize("name", FOOLS)
def test_networks_that_fool_attacks_earn_exactly_their_warnings(net, images, name):
    change, words = FOOLS[name]
    found = sanity(Wrapped(net, change), images)
    assert len(found) == len(words) and all(word in said for word, said in zip(words, found, strict=True)), found


@pytest.mark.parametrize("threat", [Threat("linf", "72/255"), Threat("l2", 2), Threat("l1", 8)], ids=lambda t: t.norm)
def test_square_beats_an_attack_on_masked_gradients_and_not_a_sound_one(net, images, threat):
    for change, beaten in ((lambda net, x: net(x), False), (FOOLS["huge logits"][0], True)):
        subject = Wrapped(net, change)
        robust = torch.tensor(evaluate(subject, images, threat, tier("pgd20", threat)).table["robust"])
        said = beaten_by_square(subject, images, robust, threat)
        assert ["images that the attack left standing" in sentence for sentence in said] == [True] * beaten
        assert robust.any() or not beaten


def test_pixels_outside_the_range_are_noticed(net, images, monkeypatch):
    monkeypatch.setattr(ImageSet, "pixels", lambda self, sel=None: self.images.float())
    assert any("outside [0, 1]" in sentence for sentence in sanity(net, images))
