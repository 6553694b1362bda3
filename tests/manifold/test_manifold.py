"""Tangent spaces against known ones, and sensitivities whose values are known."""

import copy
import math

import pytest
import torch
from torch import nn

from benchmarks import tangents as benchmark
from lib.errors import SettingsError
from lib.manifold import sensitivity, spectrum
from lib.manifold import spaces as manifold
from lib.manifold.spaces import Tangents
from lib.runtime import derangement, generator, initialise_with

SHAPE, LATENTS = (2, 8, 8), 5
D = math.prod(SHAPE)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def normal(*shape, key="", dtype=torch.float64):
    return torch.randn(*shape, generator=generator("manifold", key, shape), dtype=torch.float64).to(dtype)


def decoder(dtype=torch.float64):
    """Latents [B, 5] to images [B, 2, 8, 8]; in train mode, its BN statistics those of some latents."""
    with initialise_with("decoder"):
        net = nn.Sequential(
            nn.Linear(LATENTS, 32), nn.Unflatten(1, (8, 2, 2)), nn.BatchNorm2d(8), nn.SiLU(),
            nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.GroupNorm(2, 6), nn.SiLU(),
            nn.ConvTranspose2d(6, SHAPE[0], 4, 2, 1), nn.Sigmoid(),
        ).to(dtype)
    with torch.no_grad():
        net(3 * normal(40, LATENTS, key="statistics", dtype=dtype) + 1)
    return net


def classifier(classes=3, dtype=torch.float64, shape=SHAPE):
    """A smooth network."""
    with initialise_with("classifier"):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.Tanh(), nn.Linear(16, classes)).to(dtype)


def images(count=6, dtype=torch.float64, shape=SHAPE):
    return torch.rand(count, *shape, generator=generator("images", shape), dtype=torch.float64).to(dtype)


def spaces(count=6, k=4, dtype=torch.float64, shape=SHAPE):
    return manifold.spanned_by(normal(count, math.prod(shape), k, key="spaces", dtype=dtype))


def projector(tangents):
    return tangents.bases @ tangents.bases.mT


def reverse(decode, latents):
    """The Jacobian [B, D, k] as torch forms it by a backward pass for each pixel."""
    rows = [torch.autograd.functional.jacobian(lambda z: decode(z[None]).flatten(), latent) for latent in latents]
    return torch.stack(rows)


# ----------------------------------------------------------------------------------------------------- tangent spaces


def test_forward_mode_gives_the_jacobian_of_reverse_mode():
    decode, latents = decoder().eval(), normal(3, LATENTS)
    found = manifold.decoder_jacobian(decode, latents, directions=2)
    expected = reverse(decode, latents)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decoders_tangents_are_an_orthonormal_basis_of_its_jacobian(dtype):
    decode, latents = decoder(dtype), normal(3, LATENTS, dtype=dtype)
    before = copy.deepcopy(decode.state_dict())
    tangents = manifold.decoder_tangents(decode, latents, SHAPE)
    assert decode.training and all(module.training for module in decode.modules())
    assert all(torch.equal(value, before[name]) for name, value in decode.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in decode.parameters()) and not tangents.bases.requires_grad
    assert tangents.bases.shape == (3, D, LATENTS) and tangents.bases.dtype == dtype
    gram = tangents.bases.mT @ tangents.bases
    torch.testing.assert_close(gram, torch.eye(LATENTS, dtype=dtype).expand_as(gram), rtol=0, atol=1e-5)
    assert tangents.rank.tolist() == [LATENTS] * 3 and tangents.warning == ""
    jacobian = reverse(decode.eval(), latents)
    left = jacobian - projector(tangents) @ jacobian
    assert left.norm(dim=1).max() < 1e-5 * jacobian.norm(dim=1).max()


def test_a_method_of_a_module_is_used_in_its_eval_mode():
    class AutoEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder()

        def decode(self, latents):
            return self.decoder(latents)

    net, latents = AutoEncoder(), normal(3, LATENTS)
    tangents = manifold.decoder_tangents(net.decode, latents, SHAPE)
    assert net.decoder.training
    assert torch.equal(tangents.bases, manifold.decoder_tangents(net.decoder.eval(), latents, SHAPE).bases)


@pytest.mark.parametrize("directions", [None, 1, 3])
def test_the_peers_of_the_benchmark_find_the_same_jacobian(directions):
    decode, latents = decoder().eval(), normal(2, LATENTS)
    expected = manifold.decoder_jacobian(decode, latents, directions)
    for mine, latent in zip(expected, latents, strict=True):
        torch.testing.assert_close(benchmark.by_pixels(decode, latent, D), mine)
        torch.testing.assert_close(benchmark.by_jacrev(decode, latent), mine)
    same, other = manifold.spanned_by(expected).bases, spaces(2, LATENTS).bases
    assert benchmark.distance(same, -same.flip(2)) < 1e-12 and benchmark.distance(same, other) > 0.5


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_do_not_change_tangent_spaces(batch):
    decode, latents = decoder(torch.float32), normal(5, LATENTS, dtype=torch.float32)
    tangents, others = (manifold.decoder_tangents(decode, latents, SHAPE, size) for size in (3, batch))
    torch.testing.assert_close(projector(others), projector(tangents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_latent_directions_are_one_direction_of_the_space(dtype):
    decode, latents = decoder(dtype).eval(), normal(3, LATENTS, dtype=dtype)
    with torch.no_grad():
        decode[0].weight[:, 3] = decode[0].weight[:, 1]
    tangents = manifold.decoder_tangents(decode, latents, SHAPE)
    assert tangents.rank.tolist() == [4, 4, 4] and not tangents.bases[..., 4].any()
    assert tangents.warning == "3 of 3 tangent spaces have fewer than 5 dimensions, the smallest 4"
    others = manifold.spanned_by(reverse(decode, latents)[..., [0, 1, 2, 4]])
    torch.testing.assert_close(projector(tangents), projector(others), rtol=0, atol=1e-4)
    moves = sensitivity.steps(normal(2, 3, D, dtype=dtype), tangents, 1)
    assert all(move.isfinite().all() for move in (moves.on, moves.off))


def test_decoders_that_give_no_tangent_space_are_refused_in_a_sentence():
    decode, latents = decoder().eval(), normal(3, LATENTS)
    with pytest.raises(SettingsError, match=r"decode = to images of shape \(2, 8, 8\) .* the shape \(1, 8, 16\)"):
        manifold.decoder_tangents(decode, latents, (1, 8, 16))
    with pytest.raises(SettingsError, match="1 of 3 without a direction"):
        manifold.decoder_tangents(lambda z: decode(z * (z[:, :1] != latents[1, 0])), latents, SHAPE)
    with pytest.raises(SettingsError, match="NaN or infinite"):
        manifold.decoder_tangents(lambda z: decode(z / 0), latents, SHAPE)
    with pytest.raises(SettingsError, match="size of a latent = 128 .* below the 128 pixels"):
        manifold.decoder_tangents(decode, normal(3, D), SHAPE)
    with pytest.raises(SettingsError, match="float32 .* the weights' type, torch.float64"):
        manifold.decoder_tangents(decode, latents.float(), SHAPE)
    with pytest.raises(SettingsError, match="batch = 0"):
        manifold.decoder_tangents(decode, latents, SHAPE, batch=0)


def test_bases_are_orthonormal_or_refused():
    bases = spaces().bases
    assert Tangents(bases).rank.tolist() == [4] * 6
    assert Tangents(bases[:1]).warning == Tangents(bases).warning == ""
    for wrong in (2 * bases, bases + bases[..., :1], bases[..., [0, 0]]):
        with pytest.raises(SettingsError, match="bases = of columns whose products are off"):
            Tangents(wrong)
    with pytest.raises(SettingsError, match="bases = of shape"):
        Tangents(bases[0])
    with pytest.raises(SettingsError, match="torch.float16"):
        Tangents(bases.half())
    with pytest.raises(SettingsError, match="1 of 6 without a direction"):
        Tangents(bases * (torch.arange(6) != 4)[:, None, None])


@pytest.mark.parametrize("count", [60, 300], ids=["fewer images than pixels", "more"])
def test_global_pca_finds_the_subspace_that_images_lie_in(count):
    basis = manifold.spanned_by(normal(1, D, 6, key="subspace")).bases[0]
    stds = torch.tensor([9.0, 7, 5, 3, 2, 1], dtype=torch.float64)
    pixels = (0.5 + (normal(count, 6) * stds) @ basis.T).view(count, *SHAPE)
    tangents = manifold.global_pca(pixels, 6)
    assert tangents.bases.shape == (1, D, 6)
    torch.testing.assert_close(projector(tangents)[0], basis @ basis.T, rtol=0, atol=1e-9)
    coordinates = (pixels.flatten(1) - pixels.flatten(1).mean(0)) @ tangents.bases[0]
    assert (coordinates.std(0).diff() < 0).all(), "largest variance first"
    with pytest.raises(SettingsError, match="k = 7 .* at most 6, the number of directions"):
        manifold.global_pca(pixels, 7)
    with pytest.raises(SettingsError, match=f"k = {D + 1} .* from 1 to {min(count - 1, D)}"):
        manifold.global_pca(pixels, D + 1)
    near = manifold.global_pca(pixels.float(), 6)
    assert near.bases.dtype == torch.float32
    torch.testing.assert_close(projector(near).double(), projector(tangents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2], ids=["half a circle", "half a sphere"])
def test_local_pca_finds_the_tangent_of_a_curved_manifold(k):
    turn = torch.linalg.qr(normal(D, D, key="turn"))[0][:, :k + 1]

    def on_sphere(count, key):  # one half of it: what lies opposite has the same tangent
        points = nn.functional.normalize(normal(count, k + 1, key=key), dim=1)
        return torch.cat([points[:, :1].abs(), points[:, 1:]], 1)

    known, points = on_sphere(2000, "known"), on_sphere(20, "points")
    pixels, at = ((sphere @ turn.T).view(-1, *SHAPE) for sphere in (known, points))
    tangents = manifold.local_pca(at, pixels, k, neighbours=12)
    assert tangents.bases.shape == (20, D, k) and tangents.warning == ""
    radial = points @ turn.T
    assert sensitivity.inside(radial, tangents).max() < 0.01
    true = torch.eye(D, dtype=torch.float64)[None] - radial[:, :, None] * radial[:, None]
    true = turn @ turn.T @ true @ turn @ turn.T
    assert (true @ tangents.bases).norm(dim=1).min() > 0.99
    one = manifold.local_pca(at[7:8], pixels, k, neighbours=12)
    torch.testing.assert_close(projector(one)[0], projector(tangents)[7], rtol=0, atol=1e-9)


def test_local_pca_asks_no_more_than_neighbours_can_tell():
    pixels = images(30)
    for wrong, said in (({"k": 5, "neighbours": 5}, "k = 5 .* from 1 to 4"), ({"k": 0, "neighbours": 5}, "k = 0"),
                        ({"k": 2, "neighbours": 31}, "neighbours = 31 .* from 2 to 30")):
        with pytest.raises(SettingsError, match=said):
            manifold.local_pca(pixels[:2], pixels, **wrong)
    with pytest.raises(SettingsError, match="points = of 64 pixels"):
        manifold.local_pca(pixels[:2, :1], pixels, 2, 5)
    twice = torch.cat([pixels[:4], pixels[:4]])
    tangents = manifold.local_pca(twice[:3], twice, 4, 6)
    assert tangents.rank.tolist() == [2] * 3, "three images, each twice, differ in two directions"
    assert "3 of 3 tangent spaces have fewer than 4 dimensions, the smallest 2" == tangents.warning


# --------------------------------------------------------------------------------------------------- projection, steps


def test_projection_is_that_on_the_space():
    tangents, vectors = spaces(), normal(6, *SHAPE)
    along = manifold.project(vectors, tangents)
    assert along.shape == vectors.shape and not torch.allclose(along, vectors)
    torch.testing.assert_close(manifold.project(along, tangents), along)
    assert (tangents.bases.mT @ (vectors - along).flatten(1)[:, :, None]).abs().max() < 1e-12
    one = Tangents(tangents.bases[2:3])
    torch.testing.assert_close(manifold.project(vectors, one)[2], along[2])
    repeated = Tangents(one.bases.expand(6, -1, -1))
    torch.testing.assert_close(manifold.project(vectors, one), manifold.project(vectors, repeated))
    torch.testing.assert_close(manifold.project(vectors.to(memory_format=torch.channels_last), tangents), along)


def test_what_does_not_fit_the_spaces_is_refused():
    tangents, net = spaces(), classifier()
    with pytest.raises(SettingsError, match=r"vectors = of shape \(1, 5, 128\) .* \[draws, 6, 128\]"):
        manifold.project(normal(5, *SHAPE), tangents)
    with pytest.raises(SettingsError, match="of shape"):
        manifold.project(normal(6, 1, 8, 8), tangents)
    with pytest.raises(SettingsError, match="float32 .* tangent spaces' type, torch.float64"):
        manifold.project(normal(6, *SHAPE).float(), tangents)
    with pytest.raises(SettingsError, match="images"):
        sensitivity.rho2(net, images(5), tangents)
    with pytest.raises(SettingsError, match="steps = of shape"):
        sensitivity.output_change(net, images(5), normal(2, 6, D))
    with pytest.raises(SettingsError, match="steps = torch.float32"):
        sensitivity.output_change(net, images(6), normal(2, 6, D).float())
    with pytest.raises(SettingsError, match="float32 .* the weights' type, torch.float64"):
        sensitivity.output_change(net, images(6).float(), normal(2, 6, D).float())
    with pytest.raises(SettingsError, match="'l3'.*known: l1, l2, squared l2"):
        sensitivity.output_change(net, images(6), normal(2, 6, D), norm="l3")
    with pytest.raises(SettingsError, match="sigma = 0"):
        sensitivity.rho1(net, images(6), tangents, 0, normal(2, 6, D))
    with pytest.raises(SettingsError, match="size = 0"):
        sensitivity.steps(normal(2, 6, D), tangents, 0)
    with pytest.raises(SettingsError, match="number of indices = 4 .* 6, one for each"):
        sensitivity.normal_draws(images(6), torch.arange(4), 1)
    whole = manifold.spanned_by(torch.eye(D, dtype=torch.float64)[None])
    with pytest.raises(SettingsError, match="dimension of a tangent space = 128 .* below the 128 pixels"):
        sensitivity.steps(normal(2, 6, D), whole, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_have_the_size_asked_for_and_lie_in_the_space_or_out_of_it(dtype):
    tangents, noise = spaces(dtype=dtype), sensitivity.normal_draws(images(dtype=dtype), torch.arange(6), 3)
    moves = sensitivity.steps(noise, tangents, 2.637)
    for step, share in ((moves.on, 1), (moves.off, 0)):
        assert step.shape == (3, 6, D) and step.dtype == dtype
        torch.testing.assert_close(step.norm(dim=2), torch.full((3, 6), 2.637, dtype=dtype))
        for draw in step:
            close = 1e-5 if dtype == torch.float32 else 1e-12
            assert (sensitivity.inside(draw, tangents) - share).abs().max() < close
    parts = sensitivity.resized(moves.on, 1) * (noise * moves.on).sum(2, keepdim=True) / 2.637
    rest = sensitivity.resized(moves.off, 1) * (noise * moves.off).sum(2, keepdim=True) / 2.637
    torch.testing.assert_close(parts + rest, noise, rtol=0, atol=1e-4)


def test_draws_are_standard_normal_and_each_images_own():
    pixels, indices = images(6), torch.tensor([4, 17, 3, 8, 99, 0])
    noise = sensitivity.normal_draws(pixels, indices, 40, "seed", 1)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    chosen = torch.tensor([5, 2])
    assert torch.equal(sensitivity.normal_draws(pixels[chosen], indices[chosen], 3, "seed", 1), noise[:3, chosen])
    assert torch.equal(sensitivity.normal_draws(pixels.float(), indices, 40, "seed", 1), noise.float())
    assert not torch.equal(sensitivity.normal_draws(pixels, indices, 40, "seed", 2), noise)
    assert noise.flatten(1).unique(dim=0).shape[0] == 40 and noise[0].unique(dim=0).shape[0] == 6


def test_orthogonal_draws_have_the_second_moments_of_the_normal_exactly():
    draws = sensitivity.orthogonal_draws(images(3), torch.arange(3), "seed")
    moments = torch.einsum("rnd,rne->nde", draws, draws) / D
    torch.testing.assert_close(moments, torch.eye(D, dtype=torch.float64).expand(3, D, D))
    assert abs(draws.mean()) < 0.03 and (draws[:, 0] - draws[:, 1]).abs().max() > 1
    assert (draws[0].mean(1).abs() < 0.5).all(), "the first is no special direction"


def test_another_images_space_is_another_one():
    order = derangement(50, "seed", 3)
    assert order.sort().values.tolist() == list(range(50)) and (order != torch.arange(50)).all()
    assert torch.equal(order, derangement(50, "seed", 3))
    assert not torch.equal(order, derangement(50, "seed", 4))
    with pytest.raises(SettingsError, match="at least 2"):
        derangement(1)
    tangents, order = spaces(), derangement(6)
    others = tangents.at(order)
    assert torch.equal(others.bases, tangents.bases[order])
    moves = sensitivity.steps(normal(1, 6, D), others, 1)
    assert sensitivity.inside(moves.on[0], tangents).max() < 0.3
    assert (sensitivity.inside(moves.on[0], others) > 0.999).all()
    with pytest.raises(SettingsError, match="bases = one for all images"):
        Tangents(tangents.bases[:1]).at(torch.tensor([0, 0]))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 7, 9), (1, 8, 5)], ids=str)
def test_phase_randomised_steps_keep_amplitudes_and_colours_but_leave_the_space(shape):
    pixels, pixels_of_one = images(4, shape=shape), math.prod(shape)
    smooth = nn.functional.avg_pool2d(normal(16, *shape, key="smooth"), 3, 1, 1).view(4, 4, pixels_of_one).mT
    tangents = manifold.spanned_by(smooth)
    moves = sensitivity.steps(normal(5, 4, pixels_of_one), tangents, 2).on
    changed = sensitivity.phase_randomised(moves, pixels, torch.arange(4), "seed")
    assert changed.dtype == torch.float64 and changed.shape == moves.shape
    torch.testing.assert_close(changed.norm(dim=2), torch.full((5, 4), 2, dtype=torch.float64))
    before, after = (torch.fft.fft2(step.unflatten(2, shape)) for step in (moves, changed))
    torch.testing.assert_close(after.abs(), before.abs())
    torch.testing.assert_close(after * after[:, :, :1].conj(), before * before[:, :, :1].conj())
    along = torch.stack([sensitivity.inside(step, tangents) for step in changed])
    assert along.max() < 0.9 and along.mean() < 0.5
    off = sensitivity.off_part(changed, tangents, 3)
    torch.testing.assert_close(off.norm(dim=2), torch.full((5, 4), 3, dtype=torch.float64))
    assert max(float(sensitivity.inside(step, tangents).max()) for step in off) < 1e-12
    cosine = nn.functional.cosine_similarity(off, changed, dim=2)
    torch.testing.assert_close(cosine.square(), 1 - along)
    later = sensitivity.phase_randomised(moves[:, 2:], pixels[2:], torch.arange(2, 4), "seed")
    assert torch.equal(changed[:, 2:], later)
    assert not torch.allclose(changed, sensitivity.phase_randomised(moves, pixels, torch.arange(4), "another seed"))


def smooth_spaces(count, shape, k):
    """Spaces of smooth patterns, other ones for each image: blurred noise whose power is low at high frequencies."""
    noise = normal(count * k, *shape, key="smooth spaces")
    y, x = torch.fft.fftfreq(shape[1])[:, None], torch.fft.fftfreq(shape[2])[None]
    low = torch.fft.ifft2(torch.fft.fft2(noise) / (0.1 + torch.hypot(y, x)).square()).real
    return manifold.spanned_by(low.reshape(count, k, -1).mT)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 12, 20)], ids=str)
def test_matched_steps_are_off_the_space_and_have_the_spectrum(shape):
    tangents, pixels = smooth_spaces(3, shape, 8), images(3, shape=shape)
    on = sensitivity.steps(normal(2, 3, math.prod(shape)), tangents, 2.5).on
    found = spectrum.spectrum_matched(on, pixels, torch.arange(3), tangents, "seed")
    assert found.valid and found.moves.shape == on.shape
    torch.testing.assert_close(found.moves.norm(dim=2), torch.full((2, 3), 2.5, dtype=torch.float64))
    along = torch.stack([sensitivity.inside(step, tangents) for step in found.moves])
    assert along.max() < 0.01 and found.inside.max() < 0.01
    size = max(shape[1:])
    radius = (size * torch.hypot(torch.fft.fftfreq(shape[1])[:, None], torch.fft.fftfreq(shape[2])[None])).round()
    grey = [steps.unflatten(2, shape).sum(2) for steps in (on, found.moves)]  # the luminance, but for a factor
    power = [torch.fft.fft2(one).abs().square() for one in grey]
    whole = power[0].sum((2, 3))
    apart = sum((power[0] - power[1])[..., radius == band].sum(2).abs() for band in radius.unique())
    assert (apart / (2 * whole)).mean() < 0.1 and found.misplaced.mean() < 0.1
    cosine = nn.functional.cosine_similarity(on, found.moves, dim=2)
    assert cosine.abs().max() < 1e-6, "another direction"
    rest = sensitivity.off_part(sensitivity.phase_randomised(on, pixels, torch.arange(3), "seed"), tangents, 2.5)
    wanted, got = (spectrum.band_power(steps, shape) for steps in (on, rest))
    assert ((wanted - got).abs().sum((2, 3)) / 12.5).mean() > 2 * found.misplaced.mean()


def test_matched_steps_of_an_image_do_not_depend_on_the_others():
    shape = (1, 8, 8)
    tangents, pixels = smooth_spaces(3, shape, 4), images(3, shape=shape)
    on = sensitivity.steps(normal(2, 3, 64), tangents, 1).on
    whole = spectrum.spectrum_matched(on, pixels, torch.arange(3), tangents, rounds=3)
    alone = spectrum.spectrum_matched(on[:, 1:2], pixels[1:2], torch.tensor([1]), tangents.at([1]), rounds=3)
    torch.testing.assert_close(alone.moves, whole.moves[:, 1:2])
    assert (spectrum.band_power(on, shape).sum((2, 3)) - 1).abs().max() < 1e-12


def test_where_the_space_holds_all_smooth_patterns_there_is_no_such_control():
    shape = (1, 8, 8)
    tangents, pixels = manifold.lowest_modes(shape, 25), images(2, shape=shape)
    on = sensitivity.steps(normal(2, 2, 64), tangents, 1).on
    found = spectrum.spectrum_matched(on, pixels, torch.arange(2), tangents, rounds=20)
    assert not found.valid and found.misplaced.mean() > 0.1
    name, holds, detail = spectrum.said("digits", float(found.inside.mean()), float(found.misplaced.mean()))
    assert not holds and "digits" in name and detail.startswith("no such control: ")
    assert spectrum.said("digits", 0.001, 0.05)[1]
    with pytest.raises(SettingsError, match="rounds"):
        spectrum.spectrum_matched(on, pixels, torch.arange(2), tangents, rounds=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 4)], ids=str)
def test_the_lowest_modes_are_smooth_and_span_everything_in_the_end(shape):
    pixels = math.prod(shape)
    assert (manifold.lowest_modes(shape, pixels).rank == pixels).all()
    few = manifold.lowest_modes(shape, shape[0] * 5)
    flat, first = torch.ones(1, *shape, dtype=torch.float64), torch.arange(shape[1], dtype=torch.float64)
    wave = (2 * math.pi * first / shape[1] + 0.3).cos()[:, None].expand(shape)[None]
    checkers = flat * (-1) ** (torch.arange(shape[1])[:, None] + torch.arange(shape[2])[None])
    for picture, share in ((flat, 1), (wave, 1), (checkers, 0)):
        assert sensitivity.inside(picture, few).item() == pytest.approx(share, abs=1e-12)
    with pytest.raises(SettingsError, match="k = "):
        manifold.lowest_modes(shape, pixels + 1)


# --------------------------------------------------------------------------------------------------------- sensitivity


def test_output_change_is_the_distance_of_softmax_vectors():
    net, pixels, moves = classifier(), images(), 3 * normal(2, 6, D)
    with torch.no_grad():
        change = [net(pixels + move.view_as(pixels)).softmax(1) - net(pixels).softmax(1) for move in moves]
    for norm, p in (("l1", 1), ("l2", 2)):
        found = sensitivity.output_change(net, pixels, moves, norm)
        torch.testing.assert_close(found, sum(c.norm(p=p, dim=1) for c in change) / 2)
        assert found.std() > 0.01
        for batch in (1, 5, 100):
            torch.testing.assert_close(sensitivity.output_change(net, pixels, moves, norm, batch), found)


def test_margin_change_is_of_the_class_predicted_without_the_step():
    torch.manual_seed(0)  # of two logits that are almost equal the larger one is not sure
    images, moves = normal(6, *SHAPE, key="margin"), normal(3, 6, D, key="margin moves")
    net = nn.Sequential(nn.Flatten(), nn.Linear(D, 4)).double().requires_grad_(False)
    before, after = net(images), torch.stack([net(images + move.view_as(images)) for move in moves])
    top = before.argmax(1)

    def margin(logits, label):
        return float(logits[label] - max(logits[k] for k in range(4) if k != label))

    expected = [sum(abs(margin(after[r, n], top[n]) - margin(before[n], top[n])) for r in range(3)) / 3
                for n in range(6)]
    found = sensitivity.margin_change(net, images, moves, batch=5)
    assert found.tolist() == pytest.approx(expected)
    sure = nn.Sequential(net, nn.Linear(4, 4, bias=False)).double()
    sure[1].weight.data = 1e4 * torch.eye(4, dtype=torch.float64)
    assert sensitivity.output_change(sure, images, 1e-3 * moves).max() < 1e-6
    assert sensitivity.margin_change(sure, images, moves).tolist() == pytest.approx([1e4 * one for one in expected])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_steps_are_the_sum_of_their_parts_within_bands(shape):
    moves = normal(2, 3, math.prod(shape), key="bands")
    parts = [spectrum.within_bands(moves, shape, low, high) for low, high in ((0, 1), (2, 3), (4, 99))]
    assert torch.allclose(sum(parts), moves)
    power = spectrum.band_power(parts[1], shape).sum((0, 1, 2))
    assert power[2:4].min() > 0.1 and power[:2].sum() + power[4:].sum() < 1e-20
    with pytest.raises(SettingsError, match="bands = 7 to 9"):
        spectrum.within_bands(moves, shape, 7, 9)


def test_a_constant_network_does_not_change_and_has_no_rho():
    def net(x):
        return x.flatten(1)[:, :4] * 0 + torch.arange(4)

    pixels, moves, tangents = images(), normal(2, 6, D), spaces()
    assert sensitivity.output_change(net, pixels, moves).tolist() == [0] * 6
    for ratio in (sensitivity.rho1(net, pixels, tangents, 0.1, moves), sensitivity.rho2(net, pixels, tangents)):
        assert ratio.per_image.isnan().all() and not ratio.total.any() and math.isnan(ratio.pooled)


def test_the_most_that_an_output_can_change():
    def net(x):
        return 1e3 * torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    pixels, up = torch.zeros(1, *SHAPE), torch.ones(1, 1, D)
    assert float(sensitivity.output_change(net, pixels, up)) == pytest.approx(2)
    assert float(sensitivity.output_change(net, pixels, up, "l2")) == pytest.approx(2**0.5)


def test_networks_are_measured_in_eval_mode_and_left_as_they_were():
    with initialise_with("with batchnorm"):
        layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
        net = nn.Sequential(*layers).double()
    before, pixels, moves = copy.deepcopy(net.state_dict()), images(), normal(2, 6, D)
    tangents = spaces()
    found = [sensitivity.output_change(net, pixels, moves), sensitivity.rho2(net, pixels, tangents).off]
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    expected = [sensitivity.output_change(net, pixels, moves), sensitivity.rho2(net, pixels, tangents).off]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["normal", "orthogonal"])
def test_rho1_meets_its_limit_in_second_order(kind):
    """Halving sigma leaves a quarter of the distance: of a few normal draws to their own limit, of orthogonal ones to
    rho2 itself.
    """
    net, pixels, tangents, indices = classifier(), images(), spaces(), torch.arange(6)
    draws = {"normal": lambda: sensitivity.normal_draws(pixels, indices, 3), "orthogonal":
             lambda: sensitivity.orthogonal_draws(pixels, indices)}[kind]()
    limit, exact = sensitivity.rho1_limit(net, pixels, tangents, draws), sensitivity.rho2(net, pixels, tangents)
    if kind == "orthogonal":
        torch.testing.assert_close(limit.off, exact.off)
        torch.testing.assert_close(limit.total, exact.total)
    else:
        assert (limit.per_image - exact.per_image).abs().max() > 0.01, "three draws are an estimate"
    apart = [(sensitivity.rho1(net, pixels, tangents, sigma, draws, batch=100).per_image - limit.per_image).abs()
             for sigma in (0.02, 0.01, 0.005)]
    assert apart[0].max() > 1e-6
    for coarse, fine in zip(apart, apart[1:], strict=False):
        assert (coarse / fine - 4).abs().max() < 0.2


def test_rho1_takes_each_draw_with_both_signs():
    net, pixels, tangents, noise = classifier(), images(), spaces(), normal(2, 6, D)
    one, other = (sensitivity.rho1(net, pixels, tangents, 0.1, draws) for draws in (noise, -noise))
    assert torch.equal(one.per_image, other.per_image) and one.pooled == other.pooled
    with torch.no_grad():
        clean = net(pixels).softmax(1)
        squares = [(net(pixels + sign * 0.1 * draw.view_as(pixels)).softmax(1) - clean).square().sum(1)
                   for draw in noise for sign in (1, -1)]
    torch.testing.assert_close(one.total, sum(squares) / 4)


def test_rho_of_a_linear_network_is_that_of_its_weights():
    weights = normal(D, key="weights")

    def net(x):
        logit = x.flatten(1) @ weights
        return torch.stack([torch.zeros_like(logit), logit], 1)

    pixels, tangents = images(), spaces()
    off = weights - manifold.project(weights.expand(6, D), tangents)
    expected = off.square().sum(1) / weights.square().sum()
    torch.testing.assert_close(sensitivity.rho2(net, pixels, tangents).per_image, expected)
    draws = sensitivity.orthogonal_draws(pixels, torch.arange(6))
    found = sensitivity.rho1(net, pixels, tangents, 1e-4, draws).per_image
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(sensitivity.rho2_of(weights.expand(6, D), tangents).per_image, expected)


def test_rho2_is_off_the_jacobian_and_lies_between_its_ends():
    net, pixels, tangents = classifier(), images(), spaces()
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda x: net(x[None]).softmax(1)[0], x)
                            for x in pixels])
    off = torch.stack([sensitivity.rho2_of(jacobian[:, c], tangents).off for c in range(3)]).sum(0)
    found = sensitivity.rho2(net, pixels, tangents)
    torch.testing.assert_close(found.off, off)
    torch.testing.assert_close(found.total, jacobian.square().sum((1, 2, 3, 4)))
    assert ((found.per_image > 0.5) & (found.per_image < 1)).all() and found.per_image.std() > 1e-3
    assert found.pooled == pytest.approx(float(off.sum() / found.total.sum()))
    torch.testing.assert_close(sensitivity.rho2(net, pixels, tangents, batch=1).per_image, found.per_image)
    whole = Tangents(tangents.bases[:1])
    torch.testing.assert_close(sensitivity.rho2(net, pixels, whole, batch=4).per_image[0], found.per_image[0])

    basis, noise = tangents.bases[0], normal(3, 6, D)
    rest = torch.eye(D, dtype=torch.float64) - basis @ basis.T
    for seen, share in ((basis @ basis.T, 0), (rest, 1)):
        def part(x, seen=seen):
            return net((x.flatten(1) @ seen).view_as(x))

        for ratio in (sensitivity.rho2(part, pixels, whole), sensitivity.rho1(part, pixels, whole, 0.3, noise),
                      sensitivity.rho1_limit(part, pixels, whole, noise)):
            assert (ratio.per_image - share).abs().max() < 1e-12


def test_shares_of_a_gradient():
    tangents, gradients = spaces(), normal(6, *SHAPE)
    gradients[3] = 0
    along, off = sensitivity.inside(gradients, tangents), sensitivity.rho2_of(gradients, tangents).per_image
    kept = torch.arange(6) != 3
    torch.testing.assert_close((along + off)[kept], torch.ones(5, dtype=torch.float64))
    assert along[3].isnan() and off[3].isnan() and ((along[kept] > 0) & (along[kept] < 0.3)).all()
    tiny = (1e-30 * gradients).float()
    near = sensitivity.inside(tiny, manifold.spanned_by(tangents.bases.float()))
    torch.testing.assert_close(near[kept], along[kept], rtol=0, atol=1e-5)
    mask = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :2] = True
    expected = gradients[:, :, :2].square().sum((1, 2, 3)) / gradients.square().sum((1, 2, 3))
    torch.testing.assert_close(sensitivity.energy(gradients, mask), expected, equal_nan=True)
    with pytest.raises(SettingsError, match="mask"):
        sensitivity.energy(gradients, mask[:, 0])
    with pytest.raises(SettingsError, match="mask"):
        sensitivity.energy(gradients, mask.double())


def test_noise_on_the_distractor_moves_only_networks_that_look_there():
    shape, top = (1, 8, 4), torch.tensor([True, False, True, False])
    mask = torch.zeros(4, *shape, dtype=torch.bool)
    mask[top, :, :4], mask[~top, :, 4:] = True, True
    net, pixels = classifier(shape=shape), images(4, shape=shape)
    noise, stds = sensitivity.normal_draws(pixels, torch.arange(4), 8), (0, 0.1, 0.5)

    def blind(x):  # to the lower half
        return net(torch.cat([x[:, :, :4], torch.zeros_like(x[:, :, 4:])], 2))

    found = sensitivity.noise_changes(blind, pixels, mask, stds, noise)
    assert found.stds == stds and found.signal.shape == found.distractor.shape == (3, 4)
    seen = torch.where(top, found.signal, found.distractor)
    unseen = torch.where(top, found.distractor, found.signal)
    assert not unseen.any() and not seen[0].any() and (seen[1] > 0.01).all() and (seen[2] > 2 * seen[1]).all()
    both = sensitivity.noise_changes(net, pixels, mask, stds, noise)
    moves = 0.5 * noise * mask.flatten(1)
    torch.testing.assert_close(both.signal[2], sensitivity.output_change(net, pixels, moves))
    swapped = sensitivity.noise_changes(net, pixels, ~mask, stds, noise)
    assert torch.equal(swapped.signal, both.distractor) and not torch.equal(both.signal, both.distractor)
    with pytest.raises(SettingsError, match="stds"):
        sensitivity.noise_changes(net, pixels, mask, (-1,), noise)
    with pytest.raises(SettingsError, match="mask"):
        sensitivity.noise_changes(net, pixels, mask[:, :, :4], stds, noise)
