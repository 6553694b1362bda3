import copy

import pytest
import torch
from torch import nn

from lib.architectures import CNN, VGG11, ResNet, Stitch
from lib.architectures import Probe as ProbeArch
from lib.errors import SettingsError
from lib.models import Probe, Staged, build, folded, forward_flops, memory_format
from lib.models.staged import dry_run
from lib.recipe import Data, Recipe

CIFAR = Data("cifar10")
ARCHS = [ResNet(8, (1, 2)), ResNet(16, (1, 1, 1, 1)), CNN(8, 3), CNN(4, 1), VGG11(8)]
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


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_stages_are_those_of_the_recipe_and_slices_compose(arch):
    net = used(plain(arch))
    assert isinstance(net, Staged) and tuple(net.stages) == arch.stages
    assert all(net.get_submodule(name) is stage for name, stage in net.stages.items())
    x = images(3, *SHAPE)
    out = net(x)
    assert out.shape == (3, 10)
    for joint in arch.stages[:-1]:
        front, back = net.front(joint), net.back(joint)
        assert tuple(front.stages) + tuple(back.stages) == arch.stages
        assert torch.equal(back(front(x)), out)
        assert list(front.state_dict()) + list(back.state_dict()) == list(net.state_dict())  # the names stay
        assert front(x).min() >= 0  # a stage leaves rectified activations
    assert front.state_dict()["normalise.mean"] is not None
    assert {id(p) for p in front.parameters()} <= {id(p) for p in net.parameters()}  # shared, not copied


def test_unknown_joint_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'layer1.0'"):
        plain(ResNet(8, (1, 1))).front("layer1.O")


def test_resnet18_has_the_published_size():
    net = plain(ResNet(64, (2, 2, 2, 2)))
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    assert forward_flops(net, SHAPE) / 2e9 == pytest.approx(0.5554, abs=5e-5)
    names = {"stem.0.weight", "layer1.0.conv1.weight", "layer4.1.bn2.running_var", "normalise.std", "head.2.bias"}
    assert names <= set(net.state_dict())


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


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_channels_classes_and_oblong_images(arch):
    assert plain(arch, Data("cifar100")).eval()(images(2, 3, 32, 48)).shape == (2, 100)
    if not isinstance(arch, VGG11):
        assert plain(arch, Data("digits")).train()(images(2, 1, 8, 8)).shape == (2, 10)


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
        build(Recipe(CIFAR, CNN(8, 3), parents=(parent,)), [net])
    with pytest.raises(SettingsError, match="data = mnist .* 3 channel"):
        build(Recipe(Data("mnist"), CNN(8, 2), parents=(parent,)), [net])
    with pytest.raises(SettingsError, match="data = cifar100 .* 100 classes .* 10"):
        build(Recipe(Data("cifar100"), CNN(8, 2), parents=(parent,)), [net])


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
    net.train()
    before = copy.deepcopy(net.state_dict())
    quick = folded(net)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    assert [n for n, _ in quick.named_modules()] == [n for n, _ in net.named_modules()]
    assert not quick.training and not any(p.requires_grad for p in quick.parameters())
    x = images(4, *SHAPE)
    grads = []
    for candidate, layout in ((net.eval(), torch.contiguous_format), (quick, torch.channels_last)):
        leaf = x.contiguous(memory_format=layout).requires_grad_()
        out = candidate(leaf)
        grads.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    scale = max(1.0, grads[0][0].abs().max().item())
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-5 * scale)
    assert (grads[0][1] - grads[1][1]).norm() <= 1e-4 * grads[0][1].norm()


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
