"""Lenses: a contract that each of them keeps, and what each measures, on networks whose answer is known."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.errors import SettingsError
from lib.lenses.accuracy import Accuracy, better_fits
from lib.lenses.alignment import NEAREST, SCORE, SHARE, Alignment, _cosines, _truths
from lib.lenses.lens import COLUMNS, NORMAL, ROBUST, SUBJECT, TWIN, Pool, mean, share_of
from lib.lenses.manifold import ALONG, MATCHED, OFF, RATIO, Manifold, octaves
from lib.lenses.prunability import Prunability
from lib.lenses.similarity import TO, WITHIN, Similarity, best_order, chosen
from lib.lenses.stitching import Stitching
from lib.lenses.subject import Subject
from lib.models import network
from lib.papers.settings import load as profile
from lib.profiles.networks import Training
from lib.runtime import initialise_with
from lib.store import Store
from lib.training.evaluation import evaluate
from lib.training.zoo import SEED, Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import APGD, Square
from lib.values.data import Data

LENSES = {"accuracy": Accuracy(APGD(3, targets=1), Square(5), steps=2), "stitching": Stitching(100, 1, 2),
          "similarity": Similarity(4), "alignment": Alignment(), "manifold": Manifold(4, 20, 2),
          "prunability": Prunability(finetune=Training(1), steps=2)}
DIGITS = Data("digits", train=128, test=40)


class Means(nn.Module):
    """The class of the nearest mean image: a linear classifier that needs no training. Written with control flow that
    depends on the images, if it is not to be traced.
    """

    def __init__(self, means, traced=True):
        super().__init__()
        self.traced, self.fc = traced, nn.Linear(64, 10)
        with torch.no_grad():
            self.fc.weight.copy_(means.flatten(1)), self.fc.bias.copy_(-means.flatten(1).square().sum(1) / 2)

    def forward(self, x):
        if not self.traced and x.sum() < 0:
            return -self.fc(x.flatten(1))
        return self.fc(x.flatten(1).relu())


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two normal and two robust networks that were hardly trained."""
    torch.set_num_threads(1)
    networks = replace(profile("test").networks, data=DIGITS, arch=ResNet(4, (1, 1)))
    return Pool(Zoo(Store(tmp_path_factory.mktemp("store"))), networks, lambda repetition: repetition)


@pytest.fixture(scope="module")
def means(pool):
    train = pool.zoo.images(Data("digits"), "train")
    return torch.stack([train.pixels(train.labels == label).mean(0) for label in range(10)])


@pytest.fixture(scope="module")
def subject(pool):
    with initialise_with("lenses"):
        net = network(ResNet(4, (1, 2)), DIGITS.shape, 10)
    return Subject.wrap(net, data=DIGITS, normaliser="inside", name="theirs")


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
class TestContract:
    def test_the_subject_stands_next_to_its_twin_and_the_references(self, lens, subject, pool, images):
        rows = lens.measure(subject, pool, images)
        assert tuple(rows.columns) == COLUMNS and (rows["lens"] == lens.name).all()
        roles = rows.groupby("network")["role"].unique().map(list).to_dict()
        assert roles == {"theirs": [SUBJECT], "theirs, untrained": [TWIN], "N0": [NORMAL], "N1": [NORMAL],
                         "R0": [ROBUST], "R1": [ROBUST]}
        own = rows[(rows["network"] == "theirs") & ~rows["measure"].str.contains("the twin's")]
        for name, some in rows[rows["network"] != "theirs"].groupby("network"):
            against_others = own.loc[own["against"] != name, "measure"]
            assert {*some["measure"]} == {*against_others}, f"everything is measured of {name}"

    def test_rows_say_how_and_how_surely(self, lens, subject, pool, images):
        rows = lens.measure(subject, pool, images)
        assert rows["protocol"].str.startswith("40 test images of digits").all() and (rows["images"] == 40).all()
        assert (rows["key"].str.fullmatch("[0-9a-f]{16}")).all()
        known = rows[rows["low"].notna()]
        assert len(known) and ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()
        missing = rows[rows["value"].isna()]
        assert (missing["note"] != "").all()

    def test_a_sentence_is_made_of_the_rows(self, lens, subject, pool, images):
        text = lens.sentence(lens.measure(subject, pool, images))
        assert "theirs" in text and text.endswith(".") and "nan" not in text and "\n" not in text

    def test_what_was_measured_is_found_again(self, lens, subject, pool, images, monkeypatch):
        rows = lens.measure(subject, pool, images)
        before = {(kind, key) for kind, key, *_ in pool.zoo.store.entries()}
        again = lens.measure(subject, pool, images)
        assert {(kind, key) for kind, key, *_ in pool.zoo.store.entries()} == before
        assert again.equals(rows)

    def test_it_has_a_price(self, lens, subject, pool, images, tmp_path):
        fresh = replace(pool, zoo=Zoo(Store(tmp_path)))
        price = lens.price(subject, fresh, images)
        assert 0 < price < np.inf and price > lens.price(subject, fresh, images.take(slice(0, 20)))
        lens.measure(subject, pool, images)
        left = lens.price(subject, pool, images)
        assert left == price if lens.name == "similarity" else left < price, "references cost nothing twice"

    def test_other_data_share_no_axis(self, lens, pool, images):
        other = Subject.wrap(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(784, 10)), data=Data("mnist"),
                             normaliser="mnist", name="theirs")
        with pytest.raises(SettingsError, match="data of theirs = mnist .* the references' data, digits"):
            lens.measure(other, pool, images)

    def test_a_subject_is_not_called_as_a_reference(self, lens, subject, pool, images):
        with pytest.raises(SettingsError, match="name = R0"):
            lens.measure(replace(subject, name="R0"), pool, images)

    def test_without_a_graph_only_lenses_that_need_it_are_left_out(self, lens, pool, images, means):
        plain = Subject.wrap(Means(means, traced=False), data=DIGITS, normaliser="inside", name="plain")
        if lens.needs_layers:
            with pytest.raises(SettingsError, match="the lens .* left out: its graph cannot be traced"):
                lens.measure(plain, pool, images)
        else:
            assert "plain" in lens.sentence(lens.measure(plain, pool, images))


def test_a_subject_is_where_the_references_are(subject, pool):
    elsewhere = replace(pool, zoo=SimpleNamespace(device=torch.device("cuda")))
    with pytest.raises(SettingsError, match="device of theirs = cpu .* wrap the network with device='cuda'"):
        next(elsewhere.roles(subject))


def test_a_pool_has_several_references_of_each_kind(pool):
    for count in (1, 3, 2.0):
        with pytest.raises(SettingsError, match="references of each kind"):
            replace(pool, count=count)
    named = pool.training()
    assert list(named["network"]) == ["N0", "R0", "N1", "R1"] and (named["training images"] == 128).all()
    assert (named["FLOPs"] > 0).all()


# ---------------------------------------------------------------------------------------------------------- accuracy


def test_accuracies_are_those_of_the_evaluation(pool, images, means):
    lens = LENSES["accuracy"]
    own = Subject.wrap(Means(means), data=DIGITS, normaliser="inside", name="means")
    rows = lens.measure(own, pool, images)
    rows = rows[rows["role"] == SUBJECT]
    found = evaluate(own.net, images, pool.threat, lens.search, seed_parts=SEED)
    assert rows.set_index("measure").loc["clean", "value"] == found.accuracy() > 0.7
    assert rows.set_index("measure").loc["robust", "value"] == found.accuracy("robust")
    swept = rows[rows["measure"] == "robust at eps"]
    assert swept["place"].is_monotonic_increasing and swept["value"].is_monotonic_decreasing
    assert {*rows[rows["measure"].str.contains("another network")]["against"]} == {"N0", "R0"}


def test_it_says_what_would_fit_better(pool, means):
    images = pool.zoo.images(Data("digits"), "test")

    class Expects(Means):
        def forward(self, x):
            return super().forward(x * 0.25 + 0.5)

    class Bytes(Means):
        def forward(self, x):
            return super().forward(x / 255)

    class Reordered(Means):
        def forward(self, x):
            return super().forward(x).roll(3, 1)

    def said(kind, normaliser="inside"):
        return better_fits(Subject.wrap(kind(means), data=DIGITS, normaliser=normaliser), images)

    assert said(Means) == said(Expects, "quarter") == []
    forgotten, = said(Expects)
    assert "the normaliser 'quarter'" in forgotten
    assert any("pixels from 0 to 255" in text for text in said(Bytes))
    assert any("classes in another order" in text for text in said(Reordered))


# -------------------------------------------------------------------------------------------------------- similarity


def test_a_copy_of_a_reference_is_perfectly_similar_to_it(pool, images):
    copy = Subject.of_recipe(pool.zoo, pool.recipes["R0"], "copy")
    rows = LENSES["similarity"].measure(copy, pool, images)
    for measure in ("cka", "procrustes"):
        of = rows[(rows["role"] == SUBJECT) & (rows["measure"] == TO.format(measure))].set_index("against")["value"]
        assert of["R0"] == pytest.approx(1, abs=1e-4) and of.drop("R0").max() < 0.999
        beyond = rows[rows["measure"] == f"{TO.format(measure)}, minus the twin's"].set_index("against")["value"]
        assert beyond["R0"] > 0


@pytest.mark.filterwarnings("error")
def test_of_one_layer_there_is_no_self_similarity(pool, images, means):
    flat = Subject.wrap(Means(means), data=DIGITS, normaliser="inside", name="flat")
    assert len(chosen(flat)) == 1
    rows = LENSES["similarity"].measure(flat, pool, images)
    within = rows[(rows["role"] == SUBJECT) & (rows["measure"] == WITHIN.format("cka"))].iloc[0]
    assert np.isnan(within["value"]) and within["note"] == "undefined: 1 of its layers can be compared"
    text = LENSES["similarity"].sentence(rows)
    assert text.startswith("flat has too few layers for a CKA of different ones; along") and "nan" not in text


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 4), (5, 3)])
def test_the_best_order_of_depths_is_the_best_of_all(shape):
    values = np.random.default_rng(shape[0]).uniform(size=shape)
    value, path = best_order(values)
    orders = itertools.combinations_with_replacement(range(shape[1]), shape[0])
    assert value == pytest.approx(max(values[range(shape[0]), order].mean() for order in orders))
    assert list(path) == sorted(path) and values[range(shape[0]), path].mean() == pytest.approx(value)


def test_undefined_layers_are_left_out_of_the_best_order():
    values = np.array([[0.5, 0.1], [np.nan, np.nan], [0.2, np.nan]])
    assert best_order(values)[0] == pytest.approx((0.5 + 0.2) / 2)
    assert np.isnan(best_order(np.full((2, 2), np.nan))[0])


def test_ten_layers_are_spread_over_the_operations():
    with initialise_with("lenses"):
        net = network(ResNet(8, (4, 4, 4)), (3, 32, 32), 10)
    deep = Subject.wrap(net, data=Data("cifar10"), normaliser="inside")
    layers = chosen(deep)
    shares = [deep.flops[layer] for layer in layers]
    assert 8 <= len(layers) <= 10 and shares == sorted(shares) and max(np.diff(shares)) < 0.21 and shares[-1] > 0.99
    assert all(len(deep.shape(layer)) == 4 for layer in layers)


# --------------------------------------------------------------------------------------------------------- alignment


def test_cosines_are_of_centred_logits(subject, pool, images):
    truths = _truths(pool, images)
    table = _cosines(subject, images, truths)
    x = images.pixels().requires_grad_()
    logits = subject.net(x)
    for name in (SCORE, NEAREST):
        found = torch.stack([torch.cosine_similarity(
            torch.autograd.grad((logits[:, t] - logits.mean(1)).sum(), x, retain_graph=True)[0].flatten(1).double(),
            truths[name][:, t].flatten(1).double()) for t in range(10)], 1)
        own = found.gather(1, images.labels[:, None]).squeeze(1)
        assert np.allclose(table[f"own, {name}"], own, atol=1e-4)
        assert np.allclose(table[f"all, {name}"], found.mean(1), atol=1e-4)
        assert float(truths[name].sum(1).abs().max()) < 1e-3
    assert not np.allclose(table[f"own permuted, {SCORE}"], table[f"own, {SCORE}"], atol=0.01)


def test_without_denoisers_there_is_no_share(subject, pool, images):
    bare = replace(pool, networks=replace(pool.networks, denoiser=None))
    rows = Alignment().measure(subject, bare, images)
    assert {*rows["against"]} == {NEAREST} and SHARE not in {*rows["measure"]}
    assert "nearest neighbour" in Alignment().sentence(rows)


def test_a_share_is_a_ratio_of_means_with_the_noise_of_both():
    draw = np.random.default_rng(0)
    possible = draw.normal(1, 0.5, 400)
    gained = 0.3 * possible + draw.normal(0, 1, 400)
    exact, noisy = share_of(0.3 * possible, possible), share_of(gained, possible)
    assert exact.value == pytest.approx(0.3) and noisy.value == pytest.approx(gained.mean() / possible.mean())
    assert noisy.low < 0.3 < noisy.high and 0.15 < noisy.high - noisy.low < 0.25  # 2 * 1.97 * 1 / sqrt(400) = 0.2
    assert share_of(possible, possible - 1) is None
    ones = mean(np.full(5, 0.2))
    assert ones.value == pytest.approx(0.2) and np.isnan(ones.low)


# ---------------------------------------------------------------------------------------------------------- manifold


class Along(nn.Module):
    """Two classes, whose margin is one direction of the images, and eight that are never chosen."""

    def __init__(self, direction):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        with torch.no_grad():
            self.fc.weight.zero_()[0].copy_(direction.flatten()), self.fc.bias.fill_(-100)[:2].zero_()

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_a_network_that_heeds_what_varies_is_less_sensitive_off_the_manifold(pool, images):
    train = pool.zoo.images(Data("digits"), "train").pixels().flatten(1)
    _, _, directions = torch.linalg.svd(train - train.mean(0), full_matrices=False)
    lens, found = Manifold(4, 20, 8), {}
    for name, place in (("most", 0), ("least", -6)):  # the last are borders that are always black
        own = Subject.wrap(Along(directions[place]), data=DIGITS, normaliser="inside", name=name)
        rows = lens.measure(own, pool, images)
        found[name] = rows[(rows["role"] == SUBJECT) & (rows["at"] == "short")].set_index("measure")["value"]
        again = lens.measure(replace(own, name="again"), pool, images)
        assert np.allclose(again["value"], rows["value"], equal_nan=True) and "again" in {*again["network"]}
    ratio = RATIO.format(OFF, ALONG)
    assert found["most"][ratio] < -0.5 < 0.5 < found["least"][ratio]


def test_long_and_short_steps_change_a_linear_margin_in_proportion(pool, images, means):
    own = Subject.wrap(Along(means[0] - means[1]), data=DIGITS, normaliser="inside", name="linear")
    rows = LENSES["manifold"].measure(own, pool, images)
    rows = rows[(rows["role"] == SUBJECT) & (rows["measure"] == "change of the margin")]
    long, short = (rows[rows["at"] == size].set_index("against") for size in ("long", "short"))
    assert {ALONG, OFF, MATCHED} < {*long.index}
    assert np.allclose(long["value"] / long["place"], short["value"] / short["place"], rtol=1e-3)
    assert long["place"].iloc[0] == pytest.approx(2.637 * np.sqrt(64 / 3072))


def test_octaves_cover_all_frequencies():
    assert octaves((1, 8, 8)) == [(0, 1), (2, 3), (4, 7)]
    assert octaves((3, 32, 32))[-1] == (16, 31) and octaves((1, 56, 28))[-1] == (32, 63)


@pytest.mark.parametrize("options, words", [((0,), "dimension = 0"), ((8, 8), "neighbours = 8"), ((4, 9, 0), "draws")])
def test_impossible_settings_of_the_lens_are_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        Manifold(*options)
