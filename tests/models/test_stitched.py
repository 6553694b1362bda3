import pytest
import torch
from torch import nn

from lib.errors import SettingsError
from lib.models import Stitched, build, stitch
from lib.values.architectures import CNN, VGG11, CNNSmall, ImageNetResNet, PreActResNet, ResNet, Stitch, WideResNet
from lib.values.data import Data
from lib.values.recipe import Recipe

CIFAR = Data("cifar10")
PARENT = Recipe(CIFAR, ResNet(16, (1, 1, 1)))


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    net = build(PARENT)
    with torch.no_grad():  # running statistics and affine parameters that are not their initial ones
        for _ in range(3):
            net(images(16, 3, 32, 32))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(1.3), module.bias.add_(0.2)
    return net.eval()


def stitched(joint, front, end, init="random", parents=(PARENT, PARENT), **kw):
    return build(Recipe(CIFAR, Stitch(joint, init), parents=parents, **kw), [front, end])


@pytest.mark.parametrize("joint", PARENT.arch.stages[:-1])
def test_identity_self_stitch_is_the_network(net, joint):
    x = images(4, 3, 32, 32)
    assert torch.equal(stitched(joint, net, net, "identity").eval()(x), net(x))


OTHERS = [CNN(8, 3), VGG11(8), CNNSmall(), PreActResNet(8, (1, 1)), WideResNet(10, 1), ImageNetResNet(50, 8)]


@pytest.mark.parametrize("arch", OTHERS, ids=str)
def test_identity_self_stitch_of_other_networks(arch):
    """Where stages are not rectified, the joint must not rectify either."""
    parent = Recipe(CIFAR, arch)
    other, x = build(parent).eval(), images(2, 3, 32, 32)
    for joint in arch.joints[:: 1 if len(arch.joints) < 10 else 4]:  # of a deep one some in every stage
        assert torch.equal(stitched(joint, other, other, "identity", (parent, parent)).eval()(x), other(x))


def test_parts_names_and_default_initialisation(net):
    whole = stitched("layer2.0", net, net)
    assert isinstance(whole, Stitched)
    transform, relu = whole.joint
    assert isinstance(relu, nn.ReLU) and transform.bias is not None and transform.weight.shape == (32, 32, 1, 1)
    assert {"front.normalise.mean", "front.layer2.0.conv1.weight", "joint.0.weight", "back.layer3.0.bn1.weight",
            "back.head.2.weight"} <= set(whole.state_dict())
    bound = 32**-0.5  # torch's default: uniform within 1 / sqrt(fan-in), bias too
    for tensor in transform.parameters():
        assert tensor.abs().max() <= bound and tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.25)
    x = images(2, 3, 32, 32)
    whole.eval()
    by_hand = net.back("layer2.0")(torch.relu(transform(net.front("layer2.0")(x))))
    assert torch.equal(whole(x), by_hand)


def test_joint_follows_the_recipe(net):
    first, again, other = (stitched("stem", net, net, seed=seed).joint[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_parents_are_copied(net):
    whole = stitched("stem", net, net)
    ours, theirs = ({p.data_ptr() for p in m.parameters()} for m in (whole, net))
    assert not ours & theirs
    before = net.stem[1].running_mean.clone()
    whole.train()(images(8, 3, 32, 32))
    assert torch.equal(net.stem[1].running_mean, before)


def test_input_gradient_through_frozen_parameters(net):
    whole = stitched("layer1.0", net, net).eval()
    for part in (whole.front, whole.back):
        part.requires_grad_(False)
    x = images(2, 3, 32, 32).requires_grad_()
    nn.functional.cross_entropy(whole(x), torch.tensor([1, 2])).backward()
    assert x.grad.abs().sum() > 0 and whole.joint[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for part in (whole.front, whole.back) for p in part.parameters())


@pytest.mark.parametrize("adapts", [True, False])
def test_running_statistics_in_both_regimes(net, adapts):
    whole = stitched("layer1.0", net, net)
    whole.train(adapts)
    bns = [m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in bns]
    whole(images(8, 3, 32, 32, seed=3))
    assert len(bns) == 9
    assert all(torch.equal(m.running_mean, old) != adapts for m, old in zip(bns, before, strict=True))


def test_channel_counts_may_differ(net):
    wide = Recipe(CIFAR, ResNet(24, (2, 2, 2)))
    whole = stitched("layer2.0", net, build(wide), parents=(PARENT, wide))
    assert whole.joint[0].weight.shape == (48, 32, 1, 1)
    assert list(whole.back.stages) == ["layer2.1", "layer3.0", "layer3.1", "head"]
    assert whole.eval()(images(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(SettingsError, match=r"joint init = identity .* random if .* \(32 to 48 at layer2.0\)"):
        stitched("layer2.0", net, build(wide), "identity", (PARENT, wide))


def test_sizes_may_not_differ():
    small, large = Recipe(CIFAR, CNN(8, 4)), Recipe(CIFAR, VGG11(8))
    with pytest.raises(SettingsError, match="joint = conv4 .* gives 4x4, the end expects 8x8"):
        stitched("conv4", build(small), build(large), parents=(small, large))


def test_ends_from_other_data_sets(net):
    svhn, hundred = (Recipe(Data(name), PARENT.arch) for name in ("svhn", "cifar100"))
    for front, end in ((PARENT, svhn), (hundred, PARENT)):  # what the front's own head told apart does not matter
        whole = stitched("layer1.0", build(front), build(end), parents=(front, end)).eval()
        assert whole(images(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(SettingsError, match="data = cifar10 .* 10 classes .* 100 of the parent on cifar100"):
        stitched("stem", net, build(hundred), parents=(PARENT, hundred))


def test_unknown_init(net):
    with pytest.raises(SettingsError, match="did you mean 'identity'"):
        stitch(net, net, "stem", "identiy", (3, 32, 32))
