import copy
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from lib.certify import intervals, linear
from lib.errors import SettingsError
from lib.models import (
    AtNoise,
    Normalise,
    Probe,
    Staged,
    build,
    folded,
    forward_flops,
    memory_format,
    network,
    stage_flops,
)
from lib.models.building import builders, derivations
from lib.models.resnet import PreActBlock
from lib.models.staged import dry_run
from lib.profiles.loader import make
from lib.pruning.shrink import shrunk
from lib.runtime import initialise_with
from lib.training import price
from lib.values.architectures import (
    CNN,
    MLP,
    VGG11,
    VGG16,
    Architecture,
    AutoEncoder,
    CNNLarge,
    CNNSmall,
    DenoisingMLP,
    FromScratch,
    ImageNetResNet,
    Mixer,
    PreActResNet,
    Pruned,
    ResNet,
    Stitch,
    UNet,
    ViT,
    WideResNet,
)
from lib.values.architectures import Probe as ProbeArch
from lib.values.data import Data
from lib.values.declared import Declared
from lib.values.keys import digest, kinds_of
from lib.values.recipe import Recipe

CIFAR = Data("cifar10")
ARCHS = [
    ResNet(8, (1, 2)),
    ResNet(16, (1, 1, 1, 1)),
    PreActResNet(8, (1, 2)),
    WideResNet(10, 1),
    WideResNet(16, 2),
    ImageNetResNet(18, 8),
    ImageNetResNet(50, 8),
    CNN(8, 3),
    CNN(4, 1),
    VGG11(8),
    VGG16(8),
    CNNSmall(),
    CNNLarge(),
    MLP((32, 16)),
    ViT(32, 2, heads=4, mlp=16, patch=4),
    Mixer(16, 2, token_mlp=8, channel_mlp=32, patch=4),
]
SHAPE = (3, 32, 32)


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def used(net, seed=0):
    """`net` in eval mode with BN statistics and affine parameters as training leaves them: all different."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3, generator=draw)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2, generator=draw)
    return net.eval()


def plain(arch, data=CIFAR, **kw):
    return build(Recipe(data, arch, **kw))


ROOT = Recipe(CIFAR, ResNet(8, (1, 2)), epochs=0)
# An example of every architecture, of some more than one; a new class is missed until it has one here, and its digest.
EVERY = [
    *(Recipe(CIFAR, arch, epochs=0) for arch in ARCHS),
    *(Recipe(CIFAR, arch, epochs=0) for arch in (UNet(8, (1, 2)), DenoisingMLP(16, 2), AutoEncoder(8, 16))),
    replace(ROOT, arch=Stitch("layer1.0"), parents=(ROOT, ROOT)),
    replace(ROOT, arch=Stitch("stem", "least squares", rank=2), parents=(ROOT, ROOT)),
    replace(ROOT, arch=ProbeArch("layer2.0"), parents=(ROOT,)),
    replace(ROOT, arch=Pruned(ROOT.arch, "1/2"), parents=(ROOT,)),
    replace(ROOT, arch=Pruned(VGG16(8), "1/4", "channels")),
]
DIGESTS = {
    "ResNet": "57c8a01da8a62c63", "PreActResNet": "6dbb718d357eb6fb", "WideResNet": "d22e3a0d47ad0e70",
    "ImageNetResNet": "1ce024747a2aea0a", "CNN": "d3865e4ae1c7f387", "VGG11": "f7445dc358443d0e",
    "VGG16": "5e6bd316fb31b965", "CNNSmall": "d7a999ca7524cfbd", "CNNLarge": "e2989eb22991915e",
    "MLP": "24fa979226cd7f1d", "ViT": "f06408005e873cc8", "Mixer": "936a8fa7c5273d37",
    "UNet": "2b18ce273b20e52e", "DenoisingMLP": "128963247b6ef327", "AutoEncoder": "fe75e287a70ea454",
    "Stitch": "029d98f5b7c6c678", "Probe": "a333c928bb51853e", "Pruned": "61798e1c7ac3fc7d",
}


def test_every_architecture_has_an_example_a_digest_and_what_builds_it():
    every = set(kinds_of(Architecture))
    assert every == {type(recipe.arch) for recipe in EVERY}
    assert every == builders.entries.keys() | derivations.entries.keys()
    assert every - builders.entries.keys() == {type(recipe.arch) for recipe in EVERY if recipe.arch.derived}
    assert set(kinds_of(FromScratch)) == {type(arch) for arch in ARCHS}
    found = {type(recipe.arch).__name__: digest(recipe.arch) for recipe in reversed(EVERY)}  # of the first example
    assert found == DIGESTS, "keys of stored networks are made of these: give a new field its default with `later`"


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.arch.name)
def test_contract(recipe):
    """What every architecture keeps: stages with its names, halves that compose, pixels in [0, 1], a price, a
    description, a refusal of images that are too small.
    """
    arch, x = recipe.arch, images(3, *SHAPE)
    net = used(build(recipe, [used(build(parent)) for parent in recipe.parents]))
    assert all(net.get_submodule(stage) is not None for stage in arch.stages)

    seen, as_map = [], AtNoise(net, 0.25) if arch.gives == "denoised images" else net
    normaliser = next(module for module in net.modules() if isinstance(module, Normalise))
    normaliser.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    out = as_map(x)
    assert out.shape == ((3, 10) if arch.gives == "classes" else x.shape) and out.isfinite().all()
    assert len(seen) == 1 and torch.equal(seen[0], x), "the network owns its normaliser"

    assert isinstance(net, Staged) == (arch.gives == "classes" and not arch.frozen_front)
    for joint in arch.stages[:-1] if isinstance(net, Staged) else ():
        front, back = net.front(joint), net.back(joint)
        assert (*front.stages, *back.stages) == tuple(net.stages) == arch.stages
        assert [*front.state_dict(), *back.state_dict()] == list(net.state_dict())  # the names stay
        assert {id(p) for p in front.parameters()} <= {id(p) for p in net.parameters()}  # shared, not copied
        left = front(x)
        assert torch.equal(back(left), out)
        assert (left.min() >= 0) == arch.rectified
        assert (left.dim() == 4) == (joint in arch.joints)

    assert price.forward(recipe) > 0
    said = recipe.describe()
    assert said.startswith(f"cifar10 {arch.name}") and "\n" not in said
    assert all(f"{parent.key[:6]}" in said for parent in recipe.parents)
    arch.check(*SHAPE[1:])
    with pytest.raises(SettingsError) as refusal:
        arch.check(arch.min_size - 1, 32)
    assert "\n" not in str(refusal.value)


def test_unknown_joint_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'layer1.0'"):
        plain(ResNet(8, (1, 1))).front("layer1.O")


# Architecture, image, classes, its name, parameters, weights of convolutions and linear layers, multiply-adds / 10^9.
SIZES = [
    (ResNet(), SHAPE, 10, "ResNet-18", 11_173_962, 11_164_352, 0.5554),
    (PreActResNet(), SHAPE, 10, "PreActResNet-18", 11_172_170, 11_164_352, 0.5554),
    (WideResNet(28, 1), SHAPE, 10, "WRN-28-1", 369_498, 367_664, 0.0550),
    (WideResNet(28, 4), SHAPE, 10, "WRN-28-4", 5_849_050, 5_841_840, 0.8456),
    (WideResNet(28, 10), SHAPE, 10, "WRN-28-10", 36_479_194, 36_461_232, 5.2433),
    (WideResNet(34, 10), SHAPE, 10, "WRN-34-10", 46_160_474, 46_138_032, 6.6589),
    (ImageNetResNet(18), (3, 224, 224), 1000, "ImageNet ResNet-18", 11_689_512, 11_678_912, 1.8141),
    (ImageNetResNet(50), (3, 224, 224), 1000, "ImageNet ResNet-50", 25_557_032, 25_502_912, 4.0892),
    (VGG16(), SHAPE, 10, "VGG-16", 15_311_818, 15_302_848, 0.3138),
    (CNNSmall(), SHAPE, 10, "CNN-small", 214_918, 214_760, 0.0009),
    (CNNLarge(), SHAPE, 10, "CNN-large", 2_466_858, 2_465_632, 0.0164),
    (ViT(), SHAPE, 10, "ViT-7-384/4", 6_268_810, 6_215_424, 0.4265),
    (Mixer(), SHAPE, 10, "Mixer-8-128/4", 1_132_170, 1_121_536, 0.0759),
    (Mixer(token_mlp=512, channel_mlp=64), SHAPE, 10, "Mixer-8-128/4", 673_418, 662_784, 0.0759),
    (MLP((32,)), (2, 1, 1), 2, "MLP-32", 162, 128, 0),
]


@pytest.mark.parametrize("arch, shape, classes, name, parameters, weights, macs", SIZES, ids=lambda v: str(v))
def test_sizes_are_the_published_ones(arch, shape, classes, name, parameters, weights, macs):
    with initialise_with("sizes"):
        net = network(arch, shape, classes)
    assert arch.name == name
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))) == weights
    assert forward_flops(net, shape) / 2e9 == pytest.approx(macs, abs=5e-5)


def test_resnet18_keys():
    names = {"stem.0.weight", "layer1.0.conv1.weight", "layer4.1.bn2.running_var", "normalise.std", "head.2.bias"}
    assert names <= set(plain(ResNet()).state_dict())


@dataclass(frozen=True)
class Section(Declared):
    arch: FromScratch


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_profiles_can_name_every_network(arch):
    options = {f.name: getattr(arch, f.name) for f in fields(arch)}
    section = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    assert make(Section, {"arch": {"type": type(arch).__name__, **section}}, "networks").arch == arch


@pytest.mark.parametrize("widen, layers", [(1, 79), (2, 80)])
def test_wide_resnets_have_the_layers_of_the_similarity_paper(widen, layers):
    """Sheet: 0 the stem, three stages of 25 with the 1x1 convolution at the end of the first block, 76 BN, 77 ReLU,
    78 pooling, 79 logits. WRN-28-1 needs no 1x1 convolution in stage 1, in the paper's code neither.
    """
    net = plain(WideResNet(28, widen)).eval()
    kinds, seen = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Linear), []
    for name, module in net.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    net(images(1, 3, 8, 8))
    assert len(seen) == len(set(seen)) == layers
    shortcuts = [i for i, name in enumerate(seen) if "shortcut" in name]
    assert shortcuts == ([7, 32, 57] if widen > 1 else [31, 56])
    block = [f"layer1.0.{part}" for part in ("bn1", "relu1", "conv1", "bn2", "relu2", "conv2")]
    assert seen[:7] == ["stem", *block] and seen[-4:] == ["head.0", "head.1", "head.2", "head.4"]


def test_pre_activation_blocks_by_hand():
    block = used(PreActBlock(16, 32, 2))
    same, x = used(PreActBlock(16, 16, 1)), images(2, 16, 8, 8) - 0.5

    def branch(block, active):
        return block.conv2(torch.relu(block.bn2(block.conv1(active))))

    active = torch.relu(block.bn1(x))
    strided = nn.functional.conv2d(active, block.shortcut.conv.weight, stride=2)
    assert torch.allclose(block(x), branch(block, active) + strided, atol=1e-5)
    assert torch.allclose(same(x), branch(same, torch.relu(same.bn1(x))) + x, atol=1e-5)


def test_attention_by_hand_twice_differentiable_and_counted():
    """The paper's code scales by the width of all heads together; its training differentiates input gradients."""
    arch = ViT(32, 2, heads=4, mlp=16, patch=4)
    net, x = plain(arch).eval(), images(2, *SHAPE)
    attention, tokens = net.block1.attention, net.stem(x)
    assert tokens.shape == (2, 65, 32)
    query, key, value = (layer(tokens).view(2, 65, 4, 8).permute(0, 2, 1, 3)
                         for layer in (attention.query, attention.key, attention.value))
    fused = nn.functional.scaled_dot_product_attention(query, key, value, scale=32**-0.5)
    expected = attention.out(fused.permute(0, 2, 1, 3).reshape(2, 65, 32))
    assert torch.allclose(attention(tokens), expected, atol=1e-5)
    leaf = x.requires_grad_()
    grad, = torch.autograd.grad(net(leaf).square().sum(), leaf, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.stem.parameters()) and net.stem[0].conv.weight.grad.any()
    assert forward_flops(attention, (65, 32)) == 2 * (4 * 65 * 32 * 32 + 2 * 65 * 65 * 32)


def test_fused_attention_is_counted_too():
    class Fused(nn.Linear):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert forward_flops(Fused(8, 8), (3, 5, 8)) == 3 * 2 * 2 * 5 * 5 * 8


def test_mixer_mixes_patches_and_channels():
    net = plain(Mixer(16, 1, token_mlp=8, channel_mlp=32, patch=4)).eval()
    block, tokens = net.block1, net.stem(images(1, *SHAPE))
    moved = tokens.clone()
    moved[:, 3] += torch.linspace(0, 1, 16)
    assert ((block(moved) - block(tokens)).abs().amax(2) > 0).all()  # every patch sees a change of one
    nn.init.zeros_(block.tokens[2].weight)
    changed = (block(moved) - block(tokens)).abs().amax(2)
    assert changed[0, 3] > 0 and (changed > 0).sum() == 1  # without the MLP over the patches only that one


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
def test_flops_are_those_of_torchs_counter(arch):
    from torch.utils.flop_counter import FlopCounterMode

    net = plain(arch).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        net(images(1, *SHAPE))
    stages = stage_flops(net, SHAPE)
    assert forward_flops(net, SHAPE) == theirs.get_total_flops() == sum(stages.values())
    assert list(stages) == list(net.stages)


def test_flops_by_hand_and_nothing_changes():
    net = plain(CNN(4, 2))
    before = copy.deepcopy(net.state_dict())
    by_hand = 2 * (32 * 32 * 9 * 3 * 4 + 16 * 16 * 9 * 4 * 8 + 8 * 10)
    assert forward_flops(net, SHAPE) == by_hand and net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_vgg11_sizes_and_dropout():
    net = plain(VGG11(8))
    sizes = {joint: tuple(dry_run(net.front(joint), SHAPE).shape[1:]) for joint in ("conv1", "conv2", "conv4", "conv8")}
    assert sizes == {"conv1": (8, 32, 32), "conv2": (16, 16, 16), "conv4": (32, 8, 8), "conv8": (64, 2, 2)}
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == 2
    assert plain(VGG11(8), Data("stl10")).eval()(images(2, 3, 96, 96)).shape == (2, 10)


def test_vgg16_sizes_at_a_quarter_of_the_width():
    net = plain(VGG16(16))
    joints = ("conv2", "conv4", "conv7", "conv13")
    sizes = {joint: tuple(dry_run(net.front(joint), SHAPE).shape[1:]) for joint in joints}
    assert sizes == {"conv2": (16, 32, 32), "conv4": (32, 16, 16), "conv7": (64, 8, 8), "conv13": (128, 2, 2)}
    assert [tuple(m.weight.shape) for m in net.head if isinstance(m, nn.Linear)] == [(64, 512), (64, 64), (10, 64)]
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in net.modules())


def test_small_networks_without_bn():
    for arch, features in ((CNNSmall(), 2048), (CNNLarge(), 4096)):
        net = plain(arch)
        assert net.linear1[1].in_features == features and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_channels_classes_and_oblong_images(arch):
    with initialise_with("oblong"):
        net = network(arch, (3, 32, 48), 100).eval()
        assert net(images(2, 3, 32, 48)).shape == (2, 100)
        if arch.any_size:
            assert net(images(2, 3, 48, 40)).shape == (2, 100)
        if max(arch.min_size, arch.patch) <= 28:
            assert network(arch, (1, 56, 28), 10).train()(images(2, 1, 56, 28)).shape == (2, 10)
    if arch.min_size <= 8:
        assert plain(arch, Data("digits")).train()(images(2, 1, 8, 8)).shape == (2, 10)


OBLONG = ["mnist_letters", "digits_letters", "gaussian_subspace"]  # 56 x 28, 16 x 8, 8 x 16


@pytest.mark.parametrize("name", OBLONG)
@pytest.mark.parametrize("arch", [ResNet(8, (1, 2)), CNN(8, 3), CNN(8, 3, "softplus"), CNNSmall(), MLP((16,)),
                                  MLP((16,), "softplus")],
                         ids=lambda arch: arch.name)
def test_networks_of_oblong_sets(arch, name):
    data, smaller = Data(name), Data("digits")
    net = used(plain(arch, data))
    x = images(3, *data.shape)
    assert net(x).shape == (3, data.info.classes)
    assert torch.allclose(folded(net)(x), net(x), atol=1e-4)
    assert sum(stage_flops(net, data.shape).values()) == forward_flops(net, data.shape)
    bottom = x.clone()
    bottom[:, :, -2:] = 1 - bottom[:, :, -2:]
    assert ((net(bottom) - net(x)).abs().amax(1) > 1e-4).all()  # the last rows are seen
    parent = Recipe(smaller, arch)
    if arch.any_size or data.info.classes != smaller.info.classes:
        return
    with pytest.raises(SettingsError, match=f"data = {name} .* 8 x 8 pixels as the parent"):
        build(Recipe(data, arch, parents=(parent,)), [build(parent)])


def test_softplus_networks():
    arch = MLP((16, 8), "softplus")
    assert arch.name == "MLP-16-8-softplus" and not arch.rectified and MLP((16, 8)).name == "MLP-16-8"
    assert CNN(8, 2, "softplus").name == "CNN-2-w8-softplus" and CNN(8, 2).name == "CNN-2-w8" and CNN().rectified
    kinds = [type(m) for m in plain(CNN(8, 2, "softplus")).modules() if isinstance(m, (nn.ReLU, nn.Softplus))]
    assert kinds == [nn.Softplus] * 2
    net, x = plain(arch, Data("gaussian_subspace")).eval(), images(4, 1, 8, 16)
    by_hand = net.normalise(x).flatten(1)
    for layer in (net.linear1[1], net.linear2[0]):
        by_hand = (1 + (5 * layer(by_hand)).exp()).log() / 5
    assert torch.allclose(net(x), net.head(by_hand), atol=1e-5)
    net, x = net.double(), x.double()
    curvature = torch.autograd.functional.hessian(lambda x: net(x)[:, 0].sum(), x)
    assert curvature.abs().max() > 1e-3  # that of a ReLU network is 0 wherever there is one


@pytest.mark.parametrize("bounds", [intervals.margins, linear.margins])
def test_bounds_refuse_softplus(bounds):
    net, x = plain(MLP((16,), "softplus"), Data("digits")).eval(), images(2, 1, 8, 8)
    with pytest.raises(SettingsError, match="module for .* bounds 'Softplus'"):
        bounds(net, x, torch.tensor([0, 1]), 0.1)
    assert bounds(plain(MLP((16,)), Data("digits")).eval(), x, torch.tensor([0, 1]), 0.1).shape == (2, 10)


def test_channels_of_softplus_networks_shrink_rightly():
    """Units whose input is 0 give log(2) / 5, not 0: a removed channel is one that nobody reads, not one that is 0."""
    recipe = Recipe(Data("digits"), MLP((16, 12), "softplus"), epochs=0)
    arch = Pruned(recipe.arch, "1/2", granularity="channels", scores="magnitude")
    net = build(Recipe(Data("digits"), arch, epochs=0, parents=(recipe,)), [build(recipe)]).eval()
    small, x = shrunk(net), images(3, 1, 8, 8)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    assert torch.allclose(small(x), net(x), atol=1e-5)


@pytest.mark.parametrize("make, words", [
    (lambda: MLP((8,), "gelu"), ["unknown arch.activation 'gelu'", "relu, softplus"]),
    (lambda: plain(VGG16(8), Data("digits")), ["arch = VGG16", "8 pixels", "16"]),
    (lambda: plain(ViT(patch=5)), ["arch.patch = 5", "32x32"]),
    (lambda: network(Mixer(), (1, 56, 30), 10), ["arch.patch = 4", "56x30"]),
    (lambda: network(ImageNetResNet(), (3, 64, 31), 10), ["64x31", "32 a side"]),
    (lambda: ViT(heads=5), ["arch.heads = 5", "384"]),
    (lambda: ViT(depth=0), ["arch.depth = 0"]),
    (lambda: WideResNet(27), ["arch.depth = 27", "28"]),
    (lambda: WideResNet(28, 0.5), ["arch.widen = 0.5"]),
    (lambda: ImageNetResNet(34), ["arch.depth = 34", "18 or 50"]),
    (lambda: MLP(()), ["arch.widths = []", "1 to 10"]),
    (lambda: PreActResNet(blocks=3), ["arch.blocks = 3"]),
])
def test_impossible_architectures_are_one_sentence(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("arch", [a for a in ARCHS if not a.joints], ids=str)
@pytest.mark.parametrize("kind", [Stitch, ProbeArch])
def test_tokens_cannot_be_stitched_or_probed(arch, kind):
    parent = Recipe(CIFAR, arch)
    with pytest.raises(SettingsError, match="parents = .* networks with stages that give feature maps"):
        Recipe(CIFAR, kind(arch.stages[0]), parents=(parent,) * (2 if kind is Stitch else 1))


def test_linear_stages_are_no_joints():
    parent = Recipe(CIFAR, CNNSmall())
    with pytest.raises(SettingsError, match=r"unknown joint 'linear1' .*known: conv1, conv2\)"):
        Recipe(CIFAR, ProbeArch("linear1"), parents=(parent,))


def test_pixels_are_normalised_by_the_network():
    net = plain(CNN(4, 1))
    assert torch.allclose(net.normalise(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).flatten(),
                          torch.tensor([-2.0, 0.0, 2.0]))


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_no_in_place_activations_and_one_module_per_use(arch):
    net = plain(arch).eval()
    assert not any(getattr(m, "inplace", False) for m in net.modules())
    calls = []
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    net(images(2, *SHAPE))
    assert len(calls) == len(set(calls))


def test_no_strided_pointwise_convolution_of_few_channels():
    """Its backward corrupts memory in channels_last on some CPUs; the replacement computes the same."""
    narrow, wide = plain(ResNet(8, (1, 1, 1))), plain(ResNet(16, (1, 1)))
    pointwise = [m for m in narrow.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [(m.in_channels, m.stride) for m in pointwise] == [(8, (1, 1)), (16, (2, 2))]
    assert list(wide.layer2[0].shortcut.state_dict()) == list(narrow.layer2[0].shortcut.state_dict())
    shortcut, x = narrow.layer2[0].shortcut.eval(), images(2, 8, 7, 9)
    strided = nn.functional.conv2d(x, shortcut.conv.weight, stride=2)
    assert torch.allclose(shortcut(x), shortcut.bn(strided), atol=1e-6)
    assert memory_format(narrow) == memory_format(wide) == torch.channels_last
    assert memory_format(nn.Sequential(nn.Conv2d(8, 16, 1, stride=2))) == torch.contiguous_format


def test_initialisation_follows_the_recipe_only():
    state = torch.get_rng_state()
    first = plain(ResNet(16, (1, 1)))
    assert torch.equal(torch.get_rng_state(), state)  # no global random state
    torch.rand(3)
    again, other = plain(ResNet(16, (1, 1))), plain(ResNet(16, (1, 1)), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.stem[0].weight, other.stem[0].weight)
    weight = first.layer2[0].conv2.weight  # Kaiming by fan-out: variance 2 / (9 * channels out)
    assert weight.var().item() == pytest.approx(2 / (9 * 32), rel=0.1)


def test_state_dict_round_trip():
    net = used(plain(ResNet(8, (1, 1))))
    other = plain(ResNet(8, (1, 1)), seed=1).eval()
    other.load_state_dict(net.state_dict())
    x = images(2, *SHAPE)
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("arch", [CNN(4, 1), MLP((8,)), Pruned(MLP((8,)), "1/2", scores="magnitude")],
                         ids=lambda arch: arch.name)
def test_the_normaliser_divides_by_the_unit_of_the_data(arch):
    net = plain(arch, Data("line_of_modes"), epochs=0)
    x = torch.tensor([-3.0, 7.0]).view(1, 1, 1, 2)
    assert torch.allclose(net.normalise(0.5 + x / 256), x, atol=1e-4)


def test_a_parent_of_another_unit_does_not_fit():
    parent = Recipe(Data("mnist"), CNN(4, 1))
    with pytest.raises(SettingsError, match="data = line_of_modes .* unit is 0.25 pixels, .* parent on mnist"):
        build(Recipe(Data("line_of_modes"), CNN(4, 1), parents=(parent,)), [build(parent)])


def test_fine_tuning_starts_from_a_copy():
    recipe = Recipe(CIFAR, CNN(8, 2))
    parent = used(build(recipe)).requires_grad_(False)
    net = build(Recipe(CIFAR, CNN(8, 2), parents=(recipe,)), [parent])
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert not parent.training and not any(p.requires_grad for p in parent.parameters())
    x = images(2, *SHAPE)
    assert torch.equal(net.eval()(x), parent(x))
    net.conv1[0].weight.data.zero_()
    assert parent.conv1[0].weight.any()


def test_parents_must_fit():
    parent = Recipe(CIFAR, CNN(8, 2))
    net = build(parent)
    with pytest.raises(SettingsError, match="parents = 0 .* the 1 of the recipe"):
        build(Recipe(CIFAR, CNN(8, 2), parents=(parent,)))
    with pytest.raises(SettingsError, match="arch = CNN"):
        Recipe(CIFAR, CNN(8, 3), parents=(parent,))
    with pytest.raises(SettingsError, match="data = mnist .* 3 channel"):
        Recipe(Data("mnist"), CNN(8, 2), parents=(parent,))
    with pytest.raises(SettingsError, match="data = cifar100 .* 100 classes .* 10"):
        Recipe(Data("cifar100"), CNN(8, 2), parents=(parent,))
    with pytest.raises(SettingsError, match="data = stl10 .* 32 x 32 pixels .* CNN-small on cifar10"):
        Recipe(Data("stl10"), CNNSmall(), parents=(Recipe(CIFAR, CNNSmall()),))
    assert build(Recipe(Data("stl10"), CNN(8, 2), parents=(parent,)), [net])


# -------------------------------------------------------------------------------------------------------------- folding


def composed(kind):
    parent = Recipe(CIFAR, ResNet(16, (1, 1, 1, 1)))
    net = used(build(parent))
    if kind == "stitched":
        end = used(copy.deepcopy(net), 1)
        return used(build(Recipe(CIFAR, Stitch("layer2.0"), parents=(parent, parent)), [net, end]))
    return build(Recipe(CIFAR, ProbeArch("layer3.0"), parents=(parent,)), [net])


@pytest.mark.parametrize("arch", [*ARCHS, "stitched", "probe"], ids=str)
def test_folded_equals_the_network_in_eval_mode(arch):
    net = composed(arch) if isinstance(arch, str) else used(plain(arch))
    net.double().train()  # in fp32 a ReLU at its kink may round to the other side
    before = copy.deepcopy(net.state_dict())
    quick = folded(net)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    in_front = sum(isinstance(m, PreActBlock) for m in net.modules())  # BNs of what no convolution alone gives
    assert sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules()) == (in_front + 1 if in_front else 0)
    assert [n for n, _ in quick.named_modules()] == [n for n, _ in net.named_modules()]
    assert not quick.training and not any(p.requires_grad for p in quick.parameters())
    x = images(4, *SHAPE).double()
    grads = []
    for candidate, layout in ((net.eval(), torch.contiguous_format), (quick, torch.channels_last)):
        leaf = x.contiguous(memory_format=layout).requires_grad_()
        out = candidate(leaf)
        grads.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    scale = max(1.0, grads[0][0].abs().max().item())
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-10 * scale)
    assert (grads[0][1] - grads[1][1]).norm() <= 1e-8 * grads[0][1].norm()


def test_folding_leaves_what_it_does_not_know():
    class Odd(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    class BeforeNotAfter(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv(self.bn(x))

    net = used(nn.Sequential(BeforeNotAfter(), Odd(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(),
                             nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    quick, x = folded(net), images(2, *SHAPE)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules()) == 3
    assert torch.allclose(quick(x), net(x), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_survives_every_stage(channels):
    net = folded(plain(ResNet(16, (1, 1)), Data("mnist" if channels == 1 else "cifar10")))
    x = images(3, channels, 28, 28).contiguous(memory_format=torch.channels_last)
    for stage in list(net.children())[:-1]:
        x = stage(x)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_probe_is_the_front_and_a_linear_head():
    net = composed("probe")
    assert isinstance(net, Probe) and tuple(net.front.stages) == ("stem", "layer1.0", "layer2.0", "layer3.0")
    assert net.head[-1].weight.shape == (10, 64) and net(images(2, *SHAPE)).shape == (2, 10)
    assert torch.allclose(net(images(2, *SHAPE)), net.head[-1](net.front(images(2, *SHAPE)).mean((2, 3))), atol=1e-6)


def test_twin_follows_a_network_in_training():
    from lib.models import Twin

    recipe = Recipe(Data("digits"), ResNet(16, (1, 1)), epochs=0)
    net = build(recipe)
    twin, x = Twin(net), torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        net.train()(x)  # statistics move
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
        assert not torch.allclose(twin.copy(x), net.eval()(x), atol=1e-3), "the copy is behind"
        assert torch.allclose(twin.follow()(x), net.eval()(x), atol=1e-4)
    assert not any(p.requires_grad for p in twin.copy.parameters()) and not twin.copy.training
