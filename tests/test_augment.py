"""Batched augmentation against torchvision's functions, image by image, on the parameters recorded in the Placement."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torchvision.transforms import InterpolationMode

from lib.data import Placement, augment
from lib.errors import SettingsError
from lib.recipe import AUGMENTATIONS
from lib.runtime import generator


def batch(n=40, channels=3, height=32, width=32, dtype=torch.float32):
    values = torch.randint(0, 256, (n, channels, height, width), generator=generator("batch"), dtype=torch.uint8)
    return values if dtype == torch.uint8 else values.to(dtype) / 255


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
@pytest.mark.parametrize("shape, pad", [((3, 32, 32), 4), ((1, 28, 28), 4), ((1, 8, 8), 1), ((3, 16, 24), 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_crop_and_flip_are_torchvisions_on_the_same_parameters(kind, shape, pad, dtype):
    x = batch(40, *shape, dtype=dtype)
    moved, placement = augment(x, kind, generator("a"))
    assert moved.shape == x.shape and moved.dtype == dtype and placement.pad == pad
    for i in range(len(x)):
        y0, x0 = int(placement.dy[i]) + pad, int(placement.dx[i]) + pad
        wanted = V.crop(V.pad(x[i], [pad]), y0, x0, shape[1], shape[2])
        wanted = V.horizontal_flip(wanted) if placement.flip[i] else wanted
        assert torch.equal(moved[i], wanted)


def test_every_offset_and_both_mirror_images_are_drawn_for_each_image_by_itself():
    _, placement = augment(batch(4000, 1, 8, 8), "crop-flip", generator("b"))
    shifts, found = torch.unique(torch.stack([placement.dy, placement.dx]), dim=1, return_counts=True)
    assert shifts.shape[1] == 9 and shifts.min() == -1 and shifts.max() == 1
    assert (found - 4000 / 9).abs().max() < 5 * math.sqrt(4000 / 9)
    assert abs(placement.flip.float().mean() - 0.5) < 0.04
    assert not augment(batch(), "crop", generator("b"))[1].flip.any()


def parameters(placement):
    """Rotation and shear in degrees and scale of each image, from the recorded inverse matrices."""
    forward = torch.linalg.inv(placement.matrix.double())
    angle = torch.atan2(forward[:, 1, 0], forward[:, 0, 0])
    scale = forward[:, :, 0].norm(dim=1)
    across = (angle.cos() * forward[:, 0, 1] + angle.sin() * forward[:, 1, 1]) / scale
    return torch.rad2deg(angle), torch.rad2deg(torch.atan(-across)), scale


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 24)])
def test_affine_is_torchvisions_on_the_same_parameters(shape):
    x, border = batch(12, *shape), 16
    moved, placement = augment(x, "affine", generator("c"))
    angle, shear, scale = parameters(placement)
    for i in range(len(x)):
        wide = V.pad(x[i], [border], padding_mode="edge")
        wanted = V.affine(wide, float(angle[i]), [0, 0], float(scale[i]), [float(shear[i]), 0],
                          interpolation=InterpolationMode.BILINEAR)
        torch.testing.assert_close(moved[i], V.center_crop(wanted, list(shape[1:])), atol=2e-4, rtol=0)


def test_affine_parameters_fill_their_ranges():
    _, placement = augment(batch(2000, 1, 8, 8), "affine", generator("d"))
    for values, low, high in zip(parameters(placement), (-5, -5, 0.9), (5, 5, 1.1), strict=True):
        width = high - low
        assert low - 1e-4 < values.min() < low + 0.02 * width and high - 0.02 * width < values.max() < high + 1e-4
        assert abs(values.mean() - (low + high) / 2) < 0.03 * width


def test_affine_keeps_type_range_and_flat_images():
    x = batch(8, 1, 28, 28, torch.uint8)
    moved, placement = augment(x, "affine", generator("e"))
    assert moved.dtype == torch.uint8
    assert (moved.float() - placement.apply(x.float())).abs().max() <= 0.5
    flat, _ = augment(torch.full((8, 1, 28, 28), 0.7), "affine", generator("e"))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.7))  # the edge is repeated: no black corners
    assert augment(batch(8, dtype=torch.bfloat16), "affine", generator("e"))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_equal_generators_give_equal_batches_and_nothing_global_is_drawn(kind):
    x, state = batch(), torch.get_rng_state()
    before, stream = x.clone(), generator("f")
    first, second = augment(x, kind, stream)[0], augment(x, kind, stream)[0]
    assert torch.equal(first, augment(x, kind, generator("f"))[0]) and torch.equal(x, before)
    assert torch.equal(first, second) == (kind == "none")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_a_second_tensor_lands_in_the_same_frame(kind):
    x = batch()
    moved, placement = augment(x, kind, generator("g"))
    assert torch.equal(placement.apply(x), moved)
    targets = torch.cat([x, -2 * x], dim=1)  # another number of channels, other values
    torch.testing.assert_close(placement.apply(targets), torch.cat([moved, -2 * moved], dim=1))
    assert torch.equal(placement.apply(x.to(memory_format=torch.channels_last)), moved)
    assert torch.equal(placement.apply(x.mT.contiguous().mT), moved)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_gradients_flow_back_into_the_unaugmented_frame(kind):
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=generator("h")).requires_grad_()
    _, placement = augment(x.detach(), kind, generator("h"))
    assert torch.autograd.gradcheck(placement.apply, (x,))


def test_none_does_nothing():
    x = batch()
    moved, placement = augment(x, "none", generator("i"))
    assert moved is x and placement.apply(x) is x and placement == placement and Placement().matrix is None


def test_impossible_calls_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'crop-flip'"):
        augment(batch(), "crop-flp", generator("j"))
    with pytest.raises(SettingsError, match="images = torch.int64"):
        augment(batch().long(), "crop", generator("j"))
    with pytest.raises(SettingsError, match=r"\[3, 32, 32\]"):
        augment(batch()[0], "crop", generator("j"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_a_cpu_generator_gives_the_same_batch_on_the_gpu(kind):
    x = batch()
    torch.testing.assert_close(augment(x.cuda(), kind, generator("k"))[0].cpu(), augment(x, kind, generator("k"))[0])
