"""What JPEG, Gabor and snow scenes show, and that their latents stay within the threat."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from lib.attacks import perceptual
from lib.attacks.perceptual import ascend_scene, draw, draw_each, inside, render
from lib.errors import SettingsError
from lib.runtime import generator
from lib.values.threats import PERCEPTUAL, Threat

EPS = {"jpeg": 5, "jpeg_linf": "1/4", "gabor": 60, "snow": "1/2"}
SHAPES = [(3, 1, 8, 8), (2, 3, 32, 32), (2, 3, 9, 21), (2, 1, 30, 11)]
EVERY = pytest.mark.parametrize("norm", PERCEPTUAL)


def scene_of(norm, shape, seed=0):
    threat = Threat(norm, EPS[norm])
    return threat, draw(threat, shape, generator("scene", seed))


def pictures(shape):
    """Between 0.3 and 0.5, so that little of what is added is cut."""
    return 0.3 + 0.2 * torch.rand(shape, generator=generator("pictures"))


def within(threat, scene):
    latent, eps = scene["latent"], float(threat.eps)
    if threat.norm == "jpeg":
        return bool((latent.flatten(1).norm(dim=1) <= eps * (1 + 1e-6)).all())
    if threat.norm == "jpeg_linf":
        return bool((latent.abs() <= eps).all())
    if threat.norm == "gabor":
        return bool((latent.abs() <= scene["mask"]).all())
    patches = [latent[:, :, i:i + 8, j:j + 8].mean((2, 3)) for i in range(0, latent.shape[2], 8)
               for j in range(0, latent.shape[3], 8)]
    return bool(latent.min() >= 0 and latent.max() <= 1 and torch.stack(patches).max() <= 0.15 + 1e-6)


# ------------------------------------------------------------------------------------------------------- every threat


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
def test_scenes_start_and_stay_within_the_threat_and_images_in_the_pixel_range(norm, shape):
    threat, scene = scene_of(norm, shape)
    x = torch.rand(shape, generator=generator("x"))
    assert within(threat, scene)
    for k in range(3):
        scene = ascend_scene(x, scene, torch.randn(shape, generator=generator("grad", k)), 10.0, threat)
        shown = render(x, scene, threat)
        assert within(threat, scene) and shown.shape == x.shape and shown.min() >= 0 and shown.max() <= 1
        assert all(torch.allclose(inside(scene, threat)[name], part, atol=1e-6) for name, part in scene.items())


@EVERY
def test_what_is_too_large_is_brought_inside(norm):
    threat, scene = scene_of(norm, (2, 3, 40, 40))
    large = scene | {"latent": 100 * torch.rand(scene["latent"].shape, generator=generator("large"))}
    assert not within(threat, large) and within(threat, inside(large, threat))


@EVERY
def test_a_step_follows_the_gradient_and_none_is_taken_without_one(norm):
    shape = (4, 3, 16, 16)
    (threat, scene), x = scene_of(norm, shape), pictures(shape)
    grad = torch.randn(shape, generator=generator("grad"))
    grad[2] = 0
    moved = ascend_scene(x, scene, grad, 0.01, threat)
    gain = (grad * (render(x, moved, threat) - render(x, scene, threat))).sum((1, 2, 3))
    assert (gain[[0, 1, 3]] > 0).all()
    assert torch.allclose(moved["latent"][2], scene["latent"][2], atol=1e-6)
    assert all(torch.equal(moved[name], part) for name, part in scene.items() if name != "latent")


@EVERY
def test_every_image_has_a_scene_of_its_own_that_its_generator_decides(norm):
    shape = (3, 1, 16, 16)
    one, same, other = (scene_of(norm, shape, seed)[1] for seed in (0, 0, 1))
    for name, part in one.items():
        assert torch.equal(part, same[name]) and not torch.equal(part, other[name])
        assert not torch.equal(part[0], part[1])


@EVERY
def test_scenes_drawn_each_for_itself_are_those_of_single_images(norm):
    threat, shape = Threat(norm, EPS[norm]), (3, 3, 16, 16)
    scene = draw_each(threat, shape, [generator("one", k) for k in range(3)])
    for k in range(3):
        alone = draw(threat, (1, *shape[1:]), generator("one", k))
        assert all(torch.equal(part[k:k + 1], alone[name]) for name, part in scene.items())


@EVERY
@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (1, 3, 7, 16), (1, 3, 16, 7)])
def test_images_without_a_meaning_are_refused(norm, shape):
    with pytest.raises(SettingsError):
        scene_of(norm, shape)


@pytest.mark.parametrize("norm", ["jpeg", "jpeg_linf", "snow"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_agree_with_finite_differences(norm, channels):
    shape, h = (2, channels, 12, 20), 1e-2
    threat, scene = scene_of(norm, shape)
    threat = Threat(norm, threat.eps / 10)  # nothing is cut, so differences are smooth
    scene, x = inside(scene, threat), pictures(shape)
    weights = torch.randn(shape, generator=generator("weights"))
    towards = torch.randn(scene["latent"].shape, generator=generator("towards"))
    latent = scene["latent"].clone().requires_grad_()
    grad, = torch.autograd.grad((weights * render(x, scene | {"latent": latent}, threat)).sum(), latent)
    ends = [(weights * render(x, scene | {"latent": scene["latent"] + s * h * towards}, threat)).double().sum()
            for s in (1, -1)]
    assert (grad * towards).sum().item() == pytest.approx((ends[0] - ends[1]).item() / (2 * h), rel=0.02)


# --------------------------------------------------------------------------------------------------------------- JPEG


def coefficients(plane, table):
    """Quantised DCT coefficients [blocks, 8, 8] of a plane [H, W] in units of [0, 1]."""
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    return dctn(255 * blocks, axes=(1, 2), norm="ortho") / np.array(table)


@pytest.mark.parametrize("norm", ["jpeg", "jpeg_linf"])
def test_the_latent_is_twice_what_an_encoder_sees_in_grey_images(norm):
    shape = (2, 1, 16, 24)
    (threat, scene), x = scene_of(norm, shape), torch.full(shape, 0.5)
    added = (render(x, scene, threat) - x)[:, 0].double().numpy()
    for image, latent in zip(added, scene["latent"], strict=True):
        assert np.allclose(coefficients(image, perceptual.LUMINANCE), latent.double() / 2, atol=1e-4)


def test_the_latent_is_twice_what_an_encoder_sees_in_colour_images():
    shape = (2, 3, 32, 16)
    (threat, scene), x = scene_of("jpeg", shape), torch.full(shape, 0.5)
    added = (render(x, scene, threat) - x).double().numpy()
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    for image, latent in zip(added, scene["latent"], strict=True):
        luma, *chroma = np.einsum("yr,rhw->yhw", to_ycc, image)
        halves = [plane.reshape(16, 2, 8, 2).mean((1, 3)) for plane in chroma]
        seen = np.concatenate([coefficients(luma, perceptual.LUMINANCE),
                               *(coefficients(half, perceptual.CHROMINANCE) for half in halves)])
        assert np.allclose(seen, latent.double() / 2, atol=1e-3)


def test_a_jpeg_image_tends_to_the_clean_one():
    x = torch.rand(2, 3, 16, 16, generator=generator("x"))
    threat = Threat("jpeg", "1/1000")
    assert torch.allclose(render(x, draw(threat, x.shape, generator("s")), threat), x, atol=1e-3)


# -------------------------------------------------------------------------------------------------------------- Gabor


def test_gabor_noise_brightens_by_at_most_eps_and_is_nearly_two_valued():
    shape = (4, 3, 32, 32)
    (threat, scene), x = scene_of("gabor", shape), pictures(shape)
    added = (render(x, scene, threat) - x) * 255 / float(threat.eps)
    assert added.min() > -1e-4 and added.max() < 1 + 1e-4
    assert torch.allclose(added.amax((1, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(added[:, 0], added[:, 2], atol=1e-4)
    high = added.flatten(1).quantile(0.9, 1) - added.flatten(1).quantile(0.1, 1)
    assert (high > 0.8).all()
    flat = scene | {"latent": torch.zeros_like(scene["latent"])}
    assert torch.equal(render(x, flat, threat), x)


def test_gabor_kernels_sit_at_one_pixel_in_fourteen():
    _, scene = scene_of("gabor", (5, 1, 28, 28))
    assert (scene["mask"].sum((1, 2, 3)) == 56).all()
    assert ((scene["latent"] != 0) == (scene["mask"] == 1)).all()


def test_gabor_kernels_are_symmetric_sums_of_up_to_ten_waves():
    kernels = scene_of("gabor", (64, 1, 8, 8))[1]["kernels"]
    assert torch.allclose(kernels, kernels.flip(2, 3), atol=1e-5)
    middle = kernels[:, 0, 11, 11]
    assert torch.allclose(middle, middle.round(), atol=1e-5) and middle.min() == 1 and middle.max() == 10
    assert torch.allclose(kernels.abs().amax((1, 2, 3)), middle)


def test_gabor_gradients_are_those_of_the_noise_at_its_contrast():
    shape, h = (3, 1, 16, 16), 1e-2
    (threat, scene), x = scene_of("gabor", shape), pictures(shape)
    weights, towards = (torch.randn(shape, generator=generator(name)) for name in ("weights", "towards"))
    latent = scene["latent"].clone().requires_grad_()
    shown = render(x, scene | {"latent": latent}, threat)
    grad, = torch.autograd.grad((weights * shown).sum(), latent)
    noise, further = (perceptual._each(scene["latent"] + s * towards, scene["kernels"]) for s in (0, h))
    centred = noise - noise.mean((2, 3), keepdim=True)
    gain = 1 / (0.001 + centred.abs() / centred.abs().amax((2, 3), keepdim=True))
    stretched = centred * gain
    spread = stretched.amax((2, 3), keepdim=True) - stretched.amin((2, 3), keepdim=True)
    slope = (weights * gain / spread * (further - noise) / h).sum() * float(threat.eps) / 255
    assert (grad * towards).sum().item() == pytest.approx(slope.item(), rel=0.02)


# --------------------------------------------------------------------------------------------------------------- Snow


@pytest.mark.parametrize("channels", [1, 3])
def test_air_without_flakes_is_whitened(channels):
    shape = (2, channels, 16, 16)
    (threat, scene), x = scene_of("snow", shape), pictures(shape)
    shown = render(x, scene | {"latent": torch.zeros_like(scene["latent"])}, threat)
    luma = torch.tensor([1.0] if channels == 1 else [0.2126, 0.7152, 0.0722])
    grey = torch.einsum("c,bchw->bhw", luma, x)[:, None]
    assert torch.allclose(shown, (0.75 * x + 0.25 * torch.maximum(x, 1.5 * grey + 0.5)).clamp(0, 1))
    assert (shown > x).all()


def test_flakes_lie_on_their_lattice_and_shine_with_the_fourth_power():
    shape = (1, 1, 10, 9)
    threat, scene = scene_of("snow", shape)
    x = torch.ones(shape) * 0.1
    points = torch.zeros_like(scene["kernels"])
    points[:, :, 6, 6] = 1
    bare = render(x, scene | {"latent": torch.zeros_like(scene["latent"])}, threat)
    corners = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0)]
    for layer, (row, column) in enumerate(corners):
        latent = torch.zeros_like(scene["latent"])
        latent[:, layer] = 0.5
        added = render(x, {"latent": latent, "kernels": points}, threat) - bare
        expected = torch.zeros(shape)
        expected[:, :, row::4, column::4] = 0.5 * 0.5**4
        assert torch.allclose(added, expected, atol=1e-6)


def test_the_budget_lowers_bright_patches_evenly_and_leaves_the_others():
    latent = 0.1 + 0.05 * torch.rand(2, 7, 12, 9, generator=generator("dark"))
    bright = 1.5 * torch.rand(2, 7, 8, 8, generator=generator("bright")) - 0.2
    latent[:, :, :8, :8] = bright
    near = inside({"latent": latent}, Threat("snow", 1))["latent"]
    patch = near[:, :, :8, :8]
    assert torch.allclose(patch.mean((2, 3)), torch.tensor(0.15))
    lowered = torch.where((patch > 0) & (patch < 1), bright - patch, torch.nan)  # the nearest point: all by as much
    spread = lowered - lowered.nanmean((2, 3), keepdim=True)
    assert spread.nan_to_num(0).abs().max() < 1e-5
    assert (patch[bright < 0] == 0).all()
    assert torch.equal(near[:, :, 8:], latent[:, :, 8:]) and torch.equal(near[:, :, :, 8:], latent[:, :, :, 8:])


def test_streaks_run_through_the_middle_and_fall_to_one_side():
    streaks = scene_of("snow", (40, 1, 8, 8))[1]["kernels"]
    assert streaks.shape == (40, 7, 13, 13) and streaks.min() >= 0 and streaks.max() <= 1 + 1e-6
    assert torch.allclose(streaks, streaks.flip(2, 3), atol=1e-6)
    assert (streaks[:, :, 6, 6] > 0.5).all()
    side = (streaks[:, :, 7:, 7:].sum((2, 3)) - streaks[:, :, 7:, :6].sum((2, 3))).sign()
    assert (side == side[:, :1]).all() and 5 < (side[:, 0] > 0).sum() < 35
