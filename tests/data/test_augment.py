"""Batched augmentation against torchvision's functions, image by image, on the parameters recorded in the Placement."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from lib.data import Placement, augment
from lib.errors import SettingsError
from lib.runtime import generator, initialise_with
from lib.values.recipe import AUGMENTATIONS


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


@pytest.mark.parametrize("shape, side",
                         [((3, 32, 32), None), ((1, 28, 28), None), ((3, 16, 24), None), ((3, 36, 36), 32)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resized_crop_is_torchvisions_on_the_same_parameters(shape, side, dtype):
    x = batch(40, *shape, dtype=dtype)
    moved, placement = augment(x, "resized-crop-flip", generator("m"), side)
    frame = list(shape[1:]) if side is None else [side, side]
    assert moved.dtype == dtype and list(moved.shape[-2:]) == frame == list(placement.size)
    for i in range(len(x)):
        top, left, tall, wide = placement.box[i].tolist()
        top, left = top + (shape[1] - frame[0]) // 2, left + (shape[2] - frame[1]) // 2
        assert top >= 0 and left >= 0 and top + tall <= shape[1] and left + wide <= shape[2]
        wanted = V.resized_crop(x[i].float(), top, left, tall, wide, frame, antialias=False)
        wanted = V.horizontal_flip(wanted) if placement.flip[i] else wanted
        apart = (moved[i].float() - wanted).abs().max()
        assert apart <= (0.501 if dtype == torch.uint8 else 1e-4)


def test_without_a_border_nothing_is_reduced_so_that_smoothing_would_change_nothing():
    x = batch(20)
    moved, placement = augment(x, "resized-crop-flip", generator("n"))
    for i in range(len(x)):
        wanted = V.resized_crop(x[i], *placement.box[i].tolist(), [32, 32], antialias=True)
        wanted = V.horizontal_flip(wanted) if placement.flip[i] else wanted
        torch.testing.assert_close(moved[i], wanted, atol=1e-4, rtol=0)


def test_boxes_are_distributed_as_torchvisions():
    n, x = 6000, torch.zeros(1, 1, 64, 64)
    _, placement = augment(x.expand(n, -1, -1, -1), "resized-crop-flip", generator("o"))
    with initialise_with("boxes"):  # torchvision draws from torch's global generator
        drawn = [transforms.RandomResizedCrop.get_params(x, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]
    top, left, tall, wide = placement.box.double().T
    top_, left_, tall_, wide_ = torch.tensor(drawn, dtype=torch.float64).T
    for ours, theirs in ((tall * wide, tall_ * wide_), ((wide / tall).log(), (wide_ / tall_).log()),
                         (top / (65 - tall), top_ / (65 - tall_)), (left / (65 - wide), left_ / (65 - wide_))):
        quantiles = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        spread = theirs.quantile(0.95) - theirs.quantile(0.05)
        assert (ours.quantile(quantiles) - theirs.quantile(quantiles)).abs().max() < 0.05 * spread
    assert abs(placement.flip.float().mean() - 0.5) < 0.03


@pytest.mark.parametrize("height, width", [(4, 400), (400, 4)])
def test_images_too_narrow_for_any_box_give_their_middle(height, width):
    x = torch.zeros(1, height, width)
    _, placement = augment(x.expand(5, 1, -1, -1), "resized-crop-flip", generator("p"))
    with initialise_with("narrow"):
        wanted = transforms.RandomResizedCrop.get_params(x, (0.08, 1.0), (3 / 4, 4 / 3))
    assert placement.box.tolist() == [list(wanted)] * 5


def test_a_placement_takes_images_with_the_border_and_the_frame_alone():
    x = batch(40, height=36, width=36)
    moved, placement = augment(x, "resized-crop-flip", generator("q"), 32)
    assert torch.equal(placement.apply(x), moved)
    frame = V.center_crop(x, [32, 32])
    start, end = placement.box[:, :2], placement.box[:, :2] + placement.box[:, 2:]
    inside = (start >= 0).all(1) & (end <= 32).all(1)
    assert 5 < inside.sum() < 35
    torch.testing.assert_close(placement.apply(frame)[inside], moved[inside], atol=1e-4, rtol=0)
    wide = placement.apply(torch.nn.functional.pad(frame, (2, 2, 2, 2), mode="replicate"))
    torch.testing.assert_close(placement.apply(frame), wide, atol=1e-4, rtol=0)  # the edge is repeated outside


@pytest.mark.parametrize("kind", ["none", "crop", "crop-flip", "affine"])
def test_a_side_is_the_centre_of_larger_images(kind):
    x = batch(height=37, width=41)
    moved, placement = augment(x, kind, generator("r"), 32)
    wanted, same = augment(V.center_crop(x, [32, 32]), kind, generator("r"))
    assert torch.equal(moved, wanted) and placement.pad == same.pad
    for side in (38, 0, 32.0):
        with pytest.raises(SettingsError, match=f"side = {side} .* from 1 to 37"):
            augment(x, kind, generator("r"), side)


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
