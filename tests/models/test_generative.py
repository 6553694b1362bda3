"""Denoisers and auto-encoders: preconditioning, objectives, training through the zoo, weights from elsewhere."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.data import load
from lib.errors import SettingsError
from lib.models import AtNoise, build, forward_flops, network
from lib.models.edm import load_diffusers, load_edm
from lib.models.generative import Denoiser
from lib.runtime import generator, initialise_with
from lib.store import Store
from lib.training import loop, price
from lib.training.evaluation import evaluate
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.zoo import Zoo
from lib.values.architectures import CNN, AutoEncoder, DenoisingMLP, Pruned, UNet
from lib.values.data import Data
from lib.values.objectives import CrossEntropy, Denoising, Noise, Prune, Reconstruction
from lib.values.recipe import Optimiser, Recipe, Schedule

DIGITS = Data("digits", train=256, test=100)
SMALL = DenoisingMLP(32, 2)
BASE = Recipe(DIGITS, SMALL, Denoising(0.05, 0.5), epochs=4, batch_size=64, optimiser=Optimiser("adam", lr=2e-3),
              schedule=Schedule("constant"), ema=0.9)
NOW = Progress(0, 0, 0.0)


def drawn(*shape, name="test"):
    return torch.randn(*shape, generator=generator(name))


def pixels(*shape):
    return torch.rand(*shape, generator=generator("pixels"))


def made(arch, shape, classes=10, seed=0, **options):
    with initialise_with("test", seed):
        return network(arch, shape, classes, **options)


def stirred(net):
    """The network with no layer left at 0."""
    with torch.no_grad(), initialise_with("stirred"):
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return net


def batch(n=8, shape=(1, 8, 8), seed="batch"):
    labels = torch.arange(n) % 10
    return TrainingBatch(pixels(n, *shape), labels, labels, None, generator(seed))


# ------------------------------------------------------------------------------------------------------ architectures


@pytest.mark.parametrize("arch, shape", [
    (UNet(16, (1, 2, 2)), (3, 32, 32)), (UNet(8, (1, 2), 2), (1, 28, 28)), (UNet(8, (1,)), (1, 1, 2)),
    (UNet(8, (1, 2)), (1, 8, 16)), (DenoisingMLP(16, 3), (1, 8, 8)), (DenoisingMLP(16, 1), (1, 1, 2)),
], ids=str)
def test_denoisers_give_images_of_the_same_shape(arch, shape):
    net = stirred(made(arch, shape, 7))
    x = pixels(3, *shape)
    for options in ({}, {"labels": torch.tensor([0, 6, -1])}):
        out = net(x, torch.tensor([0.1, 0.2, 0.5]), **options)
        assert out.shape == x.shape and out.dtype == torch.float32 and out.isfinite().all()
    assert all(name in dict(net.named_children()) for name in arch.stages)


@pytest.mark.parametrize("shape, halvings", [((3, 32, 32), 3), ((1, 28, 28), 2), ((1, 8, 8), 1), ((1, 8, 16), 1),
                                             ((1, 56, 28), 2), ((1, 1, 2), 0), ((3, 96, 96), 5)])
def test_auto_encoders_take_every_shape(shape, halvings):
    arch = AutoEncoder(4, 1)
    net = made(arch, shape)
    code = net.encode(pixels(2, *shape))
    assert arch.halvings(*shape[1:]) == halvings and code.shape == (2, 1)
    assert net.decode(code).shape == (2, *shape)
    kinds = {type(module) for module in net.modules()}
    assert not kinds & {nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d}
    assert all(name in dict(net.named_children()) for name in arch.stages)


def test_forward_of_an_auto_encoder_is_both_ways():
    net, x = made(AutoEncoder(8, 6), (1, 8, 8)), pixels(4, 1, 8, 8)
    assert torch.equal(net(x), net.decode(net.encode(x)))
    y = net.encode(x)
    one, = torch.autograd.grad(net.decode(y).square().sum(), y, create_graph=True)
    two, = torch.autograd.grad(one.sum(), y)
    assert two.abs().max() > 1e-6, "curved, not piecewise linear"


@pytest.mark.parametrize("make, words", [
    (lambda: UNet(12), "arch.width = 12"), (lambda: UNet(16, ()), "arch.multipliers"),
    (lambda: UNet(blocks=0), "arch.blocks = 0"), (lambda: DenoisingMLP(depth=0), "arch.depth = 0"),
    (lambda: AutoEncoder(6), "arch.width = 6"), (lambda: AutoEncoder(latent=0), "arch.latent = 0"),
    (lambda: UNet().check(8, 6), r"multipliers = \(1, 2, 2\).*8x6 pixels.*multiples of 4"),
    (lambda: replace(BASE, arch=UNet(8, (1, 1, 1, 1, 1))), "8x8 pixels.*multiples of 16"),
    (lambda: made(AutoEncoder(latent=64), (1, 8, 8)), "arch.latent = 64.*less than the 64"),
    (lambda: Denoising(0, 1), "low = 0"), (lambda: Denoising(0.5, 0.4), "high = 0.4.*at least low"),
    (lambda: Denoising(0.1, 0.4, 1.5), "label_dropout = 1.5"), (lambda: Reconstruction(-1), "noise = -1"),
])
def test_impossible_values_are_refused_in_a_sentence(make, words):
    with pytest.raises(SettingsError, match=words):
        make()


def test_objectives_train_their_own_kind_of_network():
    denoising, reconstruction = Denoising(0.1, 0.4), Reconstruction()
    for arch, good in ((UNet(), denoising), (SMALL, denoising), (AutoEncoder(), reconstruction), (CNN(), Noise(0.1))):
        assert replace(BASE, arch=arch, objective=good).objective == good
    for arch, bad, words in ((UNet(), CrossEntropy(), "CrossEntropy.*Denoising for U-Net"),
                             (SMALL, reconstruction, "Reconstruction.*Denoising for denoising MLP"),
                             (AutoEncoder(), denoising, "Denoising.*Reconstruction for auto-encoder"),
                             (CNN(), denoising, "Denoising.*classifiers, for CNN"),
                             (Pruned(CNN(), "0.1", scores="learned"), Prune(denoising), "Denoising.*classifiers")):
        with pytest.raises(SettingsError, match=words):
            replace(BASE, arch=arch, objective=bad)


# ----------------------------------------------------------------------------------------------------- preconditioning


@pytest.mark.parametrize("arch", [UNet(8, (1, 2)), SMALL], ids=lambda arch: arch.name)
def test_an_untrained_denoiser_is_c_skip_times_the_image(arch):
    net, x = made(arch, (1, 8, 8)), pixels(4, 1, 8, 8)
    sigma = torch.tensor([0.01, 0.1, 0.25, 2.0])
    skip = (0.25**2 / (sigma**2 + 0.25**2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(net(x, sigma), 0.5 + skip * (x - 0.5))


@pytest.mark.parametrize("arch", [UNet(8, (1, 2)), SMALL], ids=lambda arch: arch.name)
def test_without_noise_the_denoiser_is_the_identity(arch):
    net, x = stirred(made(arch, (1, 8, 8))), pixels(4, 1, 8, 8)
    torch.testing.assert_close(net(x, 1e-7), x, rtol=0, atol=1e-5)
    assert (net(x, 0.25) - x).abs().max() > 1e-2


class Watched(nn.Module):
    """A network that gives its input times 3 and remembers what it was asked."""

    def forward(self, *asked):
        self.asked = asked
        return 3 * asked[0]


def test_the_network_sees_images_of_unit_variance_and_a_quarter_of_the_logarithm():
    inner = Watched()
    net = Denoiser(inner, 3, 10)
    sigma = torch.tensor([0.05, 0.25, 1.0])
    clean = 0.5 + 0.25 * drawn(3, 3, 64, 64)
    noisy = clean + sigma.view(-1, 1, 1, 1) * drawn(3, 3, 64, 64, name="noise")
    out = net(noisy, sigma, torch.tensor([1, -1, 9]))
    x, noise, labels = inner.asked
    torch.testing.assert_close(x.flatten(1).std(1), torch.ones(3), rtol=0.03, atol=0)
    torch.testing.assert_close(noise, (sigma / 0.25).log() / 4)
    assert labels.tolist() == [1, 10, 9]
    s = sigma.view(-1, 1, 1, 1) / 0.25  # in units of the normaliser, where the data's deviation is 1
    torch.testing.assert_close(out, 0.5 + (noisy - 0.5) * (1 + 3 * s) / (1 + s**2))


def test_the_unit_of_the_data_is_the_unit_of_the_noise():
    net, x = made(SMALL, (1, 1, 2), 2, unit=1 / 256), pixels(3, 1, 1, 2)
    torch.testing.assert_close(net(x, 1 / 256), 0.5 + (x - 0.5) / 2)
    assert net.loss_weight(torch.tensor([1 / 256])).item() == pytest.approx(2 * 256**2)


@pytest.mark.parametrize("arch", [UNet(8, (1, 2)), SMALL], ids=lambda arch: arch.name)
def test_no_labels_are_the_null_label(arch):
    net, x = stirred(made(arch, (1, 8, 8))), pixels(5, 1, 8, 8)
    without = net(x, 0.3)
    assert torch.equal(without, net(x, 0.3, torch.full((5,), -1)))
    mixed = net(x, 0.3, torch.tensor([-1, 0, 9, -1, 4]))
    same = (mixed == without).flatten(1).all(1)
    assert same.tolist() == [True, False, False, True, False]


def test_what_a_denoiser_cannot_take_is_refused():
    net, x = made(SMALL, (1, 8, 8)), pixels(2, 1, 8, 8)
    with pytest.raises(SettingsError, match="sigma = None.*gives images and no classes"):
        net(x)
    with pytest.raises(SettingsError, match="sigma = None.*gives images and no classes"):
        evaluate(net, load(DIGITS, "test"))
    with pytest.raises(SettingsError, match="sigma = 0 .*greater than 0"):
        net(x, 0)
    with pytest.raises(SettingsError, match="labels.*takes no classes"):
        Denoiser(Watched(), 1, 0)(x, 0.1, torch.tensor([0, 1]))


# ----------------------------------------------------------------------------------------------------------- objectives


def test_the_denoising_loss_by_hand():
    net, given = made(SMALL, (1, 8, 8)), batch()
    loss, logits = loss_for(Denoising(0.5, 0.5, 0.3))(net, given, NOW)
    draws = generator("batch")
    torch.rand(8, generator=draws), torch.rand(8, generator=draws)  # sigmas (all 0.5), labels
    noise = torch.randn(8, 1, 8, 8, generator=draws)
    found = 0.5 + (given.images + 0.5 * noise - 0.5) / 5  # the untrained network: c_skip = 0.25^2 / (0.5^2 + 0.25^2)
    weight = (0.5**2 + 0.25**2) / (0.5 * 0.25) ** 2
    assert logits is None and loss.item() == pytest.approx(weight * F.mse_loss(found, given.images).item(), rel=1e-5)


def test_the_weights_make_the_networks_errors_count_alike_at_every_sigma():
    net, sigma = made(SMALL, (1, 8, 8)), torch.tensor([0.01, 0.1, 0.25, 1.0, 20.0])
    out = (sigma * 0.25 / (sigma**2 + 0.25**2).sqrt()).square()  # of c_out, in pixels
    torch.testing.assert_close(net.loss_weight(sigma) * out, torch.ones(5))


def test_sigmas_are_log_uniform_and_labels_are_dropped_as_often_as_asked():
    labels = torch.arange(20_000) % 10
    sigma, given = loss_for(Denoising(0.02, 2.0, 0.3)).draw(batch_of(labels))
    assert sigma.min() >= 0.02 and sigma.max() <= 2.0 * (1 + 1e-6)
    shares = torch.histc(sigma.log(), 10, math.log(0.02), math.log(2.0)) / len(sigma)
    assert (shares - 0.1).abs().max() < 0.01
    dropped = given == -1
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(given[~dropped], labels[~dropped])
    for share, rest in ((0.0, labels), (1.0, torch.full_like(labels, -1))):
        assert torch.equal(loss_for(Denoising(0.1, 0.1, share)).draw(batch_of(labels))[1], rest)


def batch_of(labels):
    return TrainingBatch(torch.zeros(len(labels), 1, 1, 1), labels, labels, None, generator("draw"))


def test_the_reconstruction_loss_by_hand():
    net, given = made(AutoEncoder(8, 6), (1, 8, 8)), batch()
    loss, logits = loss_for(Reconstruction())(net, given, NOW)
    assert logits is None and loss.item() == pytest.approx((net(given.images) - given.images).square().mean().item())
    noise = torch.randn(8, 1, 8, 8, generator=generator("batch"))
    loss, _ = loss_for(Reconstruction(0.2))(net, given, NOW)
    expected = (net(given.images + 0.2 * noise) - given.images).square().mean()
    assert loss.item() == pytest.approx(expected.item())


# ------------------------------------------------------------------------------------------------------------- training


TRAINED = {
    "U-Net": {"arch": UNet(8, (1, 2)), "epochs": 3},
    "MLP": {},
    "auto-encoder": {"arch": AutoEncoder(8, 6), "objective": Reconstruction(0.1), "ema": None},
}


@pytest.mark.parametrize("changes", TRAINED.values(), ids=TRAINED)
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, changes):
    recipe = replace(BASE, **changes)
    images, straight = load(recipe.data, "train"), build(recipe)
    rows = loop.fit(straight, recipe, images, "cpu")
    assert all(math.isnan(row["accuracy"]) for row in rows) and rows[-1]["loss"] < rows[0]["loss"]
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    real = loop._Training._save

    class Killed(Exception):
        pass

    def save_then_die(self):
        real(self)
        if len(self.rows) == 2:
            raise Killed

    monkeypatch.setattr(loop._Training, "_save", save_then_die)
    with pytest.raises(Killed):
        loop.fit(build(recipe), recipe, images, "cpu", tmp_path)
    monkeypatch.setattr(loop._Training, "_save", real)
    resumed = build(recipe)
    loop.fit(resumed, recipe, images, "cpu", tmp_path)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())


def test_the_zoo_trains_stores_and_prices_denoisers(tmp_path):
    zoo, x = Zoo(Store(tmp_path)), pixels(4, 1, 8, 8)
    once = zoo.obtain(BASE)
    again = Zoo(Store(tmp_path)).obtain(BASE)
    labels = torch.tensor([0, -1, 3, 9])
    assert zoo.trained_here == [BASE.key] and torch.equal(once.net(x, 0.2, labels), again.net(x, 0.2, labels))
    assert all(math.isnan(row["accuracy"]) for row in again.log) and again.meta["tflop_per_second"] > 0
    child = zoo.obtain(replace(BASE, parents=(BASE,), epochs=1, seed=3)).net
    assert not torch.equal(child(x, 0.2), once.net(x, 0.2)), "fine-tuned"
    assert zoo.obtain(replace(BASE, epochs=0)).net(x, 0.25).sub(0.5 + (x - 0.5) / 2).abs().max() < 1e-6


@pytest.mark.parametrize("changes", TRAINED.values(), ids=TRAINED)
def test_a_training_costs_three_forward_passes_an_image(changes):
    recipe = replace(BASE, **changes)
    net = build(recipe)
    one = forward_flops(AtNoise(net, 0.1) if isinstance(net, Denoiser) else net, (1, 8, 8))
    assert one > 1000 and price.training(recipe) == 3 * one * 256 * recipe.epochs
    assert price.measured_rate(recipe, "cpu", 0.01) > 1e6


def test_an_auto_encoder_learns_more_than_the_mean_image(tmp_path):
    recipe = replace(BASE, data=Data("digits"), arch=AutoEncoder(16, 16), objective=Reconstruction(), epochs=15)
    net, train = Zoo(Store(tmp_path)).obtain(recipe).net, load(recipe.data, "train").pixels()
    test = load(recipe.data, "test").pixels()
    with torch.no_grad():
        assert F.mse_loss(net(test), test) < 0.25 * F.mse_loss(train.mean(0).expand_as(test), test)


# ----------------------------------------------------------------------------------------------- weights from elsewhere


def song_file(classes=0, side=16, width=16, multipliers=(1, 2), blocks=2, attention=(8,), embedding=24, augment=9):
    """Names and random tensors of a small network in the key layout of EDM's files."""
    shapes = {}

    def layer(name, out, into, kernel=None):
        shapes[f"{name}.weight"] = (out, into) if kernel is None else (out, into, kernel, kernel)
        shapes[f"{name}.bias"] = (out,)

    def norm(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def block(name, into, out, attends=False, resamples=False):
        norm(f"{name}.norm0", into), layer(f"{name}.conv0", out, into, 3), layer(f"{name}.affine", out, embedding)
        norm(f"{name}.norm1", out), layer(f"{name}.conv1", out, out, 3)
        if resamples:
            shapes[f"{name}.conv0.resample_filter"] = shapes[f"{name}.skip.resample_filter"] = (1, 1, 2, 2)
        if resamples or into != out:
            layer(f"{name}.skip", out, into, 1)
        if attends:
            norm(f"{name}.norm2", out), layer(f"{name}.qkv", 3 * out, out, 1), layer(f"{name}.proj", out, out, 1)

    layer("map_layer0", embedding, width), layer("map_layer1", embedding, embedding)
    if classes:
        layer("map_label", width, classes)
    if augment:
        shapes["map_augment.weight"] = (width, augment)
    now, skips = width, [width]
    for level, multiplier in enumerate(multipliers):
        size, out = side >> level, width * multiplier
        if level:
            block(f"enc.{size}x{size}_down", now, now, resamples=True)
            skips.append(now)
        else:
            layer(f"enc.{size}x{size}_conv", now, 3, 3)
        for k in range(blocks):
            block(f"enc.{size}x{size}_block{k}", now, out, size in attention)
            now = out
            skips.append(now)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        size, out = side >> level, width * multiplier
        if level == len(multipliers) - 1:
            block(f"dec.{size}x{size}_in0", now, now, True), block(f"dec.{size}x{size}_in1", now, now)
        else:
            block(f"dec.{size}x{size}_up", now, now, resamples=True)
        for k in range(blocks + 1):
            block(f"dec.{size}x{size}_block{k}", now + skips.pop(), out, k == blocks and size in attention)
            now = out
    norm(f"dec.{side}x{side}_aux_norm", now), layer(f"dec.{side}x{side}_aux_conv", 3, now, 3)
    draw = generator("song")
    return {f"model.{name}": torch.full(shape, 0.25) if "filter" in name
            else torch.randn(shape, generator=draw) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}


def song(weights, x, noise, classes_given=None):
    """What EDM's network computes with these tensors, written out."""
    w = {name.removeprefix("model."): tensor for name, tensor in weights.items()}

    def norm(name, x):
        return F.group_norm(x, min(32, x.shape[1] // 4), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def conv(name, x, way=None):
        if way == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if way == "down":
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def block(name, x, told):
        way = next((way for way in ("up", "down") if name.endswith(way)), None)
        out = conv(f"{name}.conv0", F.silu(norm(f"{name}.norm0", x)), way)
        out = out + linear(f"{name}.affine", told)[..., None, None]
        out = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", out)))
        x = (out + (conv(f"{name}.skip", x, way) if f"{name}.skip.weight" in w else x)) / 2**0.5
        if f"{name}.qkv.weight" in w:
            b, c, height, width = x.shape
            q, k, v = conv(f"{name}.qkv", norm(f"{name}.norm2", x)).reshape(b, c, 3, height * width).unbind(2)
            shares = torch.einsum("bcq,bck->bqk", q, k / c**0.5).softmax(2)
            found = torch.einsum("bqk,bck->bcq", shares, v).reshape(x.shape)
            x = (conv(f"{name}.proj", found) + x) / 2**0.5
        return x

    half = len(w["map_layer0.weight"][0]) // 2
    angles = noise[:, None] * torch.tensor([1e-4 ** (k / (half - 1)) for k in range(half)])
    told = torch.cat([angles.sin(), angles.cos()], 1)
    if classes_given is not None:
        told = told + linear("map_label", classes_given * classes_given.shape[1] ** 0.5)
    told = F.silu(linear("map_layer1", F.silu(linear("map_layer0", told))))
    names = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in w if name[:3] in ("enc", "dec")))
    skips = []
    for name in names:
        if name.startswith("enc"):
            x = conv(name, x) if name.endswith("_conv") else block(name, x, told)
            skips.append(x)
        elif "aux" not in name:
            if x.shape[1] != len(w[f"{name}.norm0.weight"]):
                x = torch.cat([x, skips.pop()], 1)
            x = block(name, x, told)
    assert not skips
    return conv(names[-1], F.silu(norm(names[-2], x)))


@pytest.mark.parametrize("options", [
    {}, {"classes": 4, "augment": 0}, {"multipliers": (2, 2, 2), "side": 32, "blocks": 1, "attention": (16,)},
], ids=["unconditional", "conditional", "three levels"])
def test_a_file_of_edm_gives_its_denoiser(tmp_path, options):
    weights = song_file(**options)
    torch.save(weights, tmp_path / "edm.pt")
    net = load_edm(tmp_path / "edm.pt")
    side, classes = options.get("side", 16), options.get("classes", 0)
    x, sigma = pixels(2, 3, side, side), torch.tensor([0.25, 0.1])
    assert not net.training and net.classes == classes and not any(p.requires_grad for p in net.parameters())
    s = 2 * sigma.view(-1, 1, 1, 1)  # EDM's, for y in [-1, 1]
    y, total = 2 * x - 1, s**2 + 0.25
    for label in [-1, 2] if classes else [-1]:
        given = F.one_hot(torch.tensor([label, label]), classes).float() if label >= 0 else torch.zeros(2, classes)
        inner = song(weights, y / total.sqrt(), s.flatten().log() / 4, given if classes else None)
        expected = (0.25 / total * y + 0.5 * s / total.sqrt() * inner + 1) / 2
        found = net(x, sigma, torch.tensor([label, label]) if classes else None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage, words", [
    (lambda w: w.pop("model.dec.8x8_in0.qkv.bias"), "one with the tensor dec.8x8_in0.qkv.bias"),
    (lambda w: w.update({"model.enc.8x8_aux_down.weight": torch.zeros(1)}), "one without the tensor enc.8x8_aux_down"),
    (lambda w: w.update({"model.map_noise.freqs": torch.zeros(8)}), r"a VP network; this one \(VE\)"),
    (lambda w: w.update({"model.map_layer1.weight": torch.zeros(24, 25)}), r"map_layer1.weight of shape \(24, 24\)"),
    (lambda w: w.clear() or w.update({"conv1.weight": torch.zeros(3)}), "tensors of EDM's SongUNet"),
], ids=["missing", "unexpected", "VE", "shape", "another network"])
def test_a_file_of_another_network_is_refused(tmp_path, damage, words):
    weights = song_file()
    damage(weights)
    torch.save(weights, tmp_path / "edm.pt")
    with pytest.raises(SettingsError, match=words):
        load_edm(tmp_path / "edm.pt")


def test_files_are_not_unpickled_and_their_digest_is_checked(tmp_path):
    path = tmp_path / "edm.pt"
    torch.save({"ema": nn.Linear(2, 2)}, path)  # code, as in NVIDIA's own files
    with pytest.raises(SettingsError, match="torch reads no tensors in it"):
        load_edm(path)
    torch.save(song_file(), path)
    with pytest.raises(SettingsError, match="SHA-256 0123"):
        load_edm(path, sha256="0123")
    with pytest.raises(SettingsError, match="an existing file"):
        load_edm(tmp_path / "none.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Make a folder as diffusers saves it, of a small network of so many classes, and what was saved."""
    from diffusers import DDPMScheduler, UNet2DModel

    def make(classes=None, nested=False, **schedule):
        folder = tmp_path_factory.mktemp("diffusers")
        with initialise_with("diffusers"):
            net = UNet2DModel(in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
                              down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
                              norm_num_groups=4, num_class_embeds=classes).eval()
        steps = DDPMScheduler(**schedule)
        net.save_pretrained(folder / "unet" if nested else folder)
        steps.save_pretrained(folder / "scheduler" if nested else folder)
        return folder, net, steps.alphas_cumprod

    return make


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@torch.no_grad()
def test_a_folder_of_diffusers_gives_its_denoiser(saved, predicts):
    folder, unet, kept = saved(nested=predicts == "sample", prediction_type=predicts)
    net, x, t = load_diffusers(folder), pixels(2, 3, 8, 8), 300
    a = kept[t]
    sigma = float((1 / a - 1).sqrt())  # for y in [-1, 1]
    y = 2 * x - 1
    out = unet(y * a.sqrt(), torch.tensor([t, t])).sample
    clean = {"epsilon": y - sigma * out, "sample": out,
             "v_prediction": a * y - (1 - a).sqrt() * out}[predicts]
    torch.testing.assert_close(net(x, sigma / 2), (clean + 1) / 2, rtol=1e-3, atol=1e-3)
    between = net._step(torch.tensor([1e-6, sigma * 1.001, 1e6]))
    assert between[0] == 0 and t < between[1] < t + 1 and between[2] == 999


@torch.no_grad()
def test_the_last_class_of_diffusers_is_none(saved):
    net, x = load_diffusers(saved(classes=5)[0]), pixels(2, 3, 8, 8)
    assert net.classes == 4 and torch.equal(net(x, 0.2), net(x, 0.2, torch.tensor([-1, -1])))
    assert not torch.equal(net(x, 0.2), net(x, 0.2, torch.tensor([0, 3])))


def test_folders_that_are_not_whole_are_refused(saved, tmp_path):
    with pytest.raises(SettingsError, match="one with config.json or unet/config.json"):
        load_diffusers(tmp_path)
    folder, *_ = saved()
    (folder / "scheduler_config.json").unlink()
    with pytest.raises(SettingsError, match="one with scheduler_config.json"):
        load_diffusers(folder)
    folder, *_ = saved()
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(SettingsError, match=f"{re.escape(str(folder))}.*diffusers cannot read it"):
        load_diffusers(folder)
