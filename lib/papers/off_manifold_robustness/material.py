"""The material on which networks of a sweep are measured: images, their tangent spaces and ideal gradients, and steps.

Everything is made once, when it is first needed; a run whose measurements are stored needs little of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.data import ImageSet, closed_forms
from lib.files import save_tensors
from lib.gradients import scores
from lib.manifold import sensitivity, spaces, spectrum
from lib.manifold.sensitivity import Steps
from lib.manifold.spaces import Tangents
from lib.papers.off_manifold_robustness.networks import SweepNetworks, unit
from lib.papers.off_manifold_robustness.settings import Sweep
from lib.runtime import derangement
from lib.training.zoo import Zoo
from lib.values.keys import digest, plain

VERSION = 3  # raised when the same settings give other numbers
KNOWS = "the auto-encoder knows the images at least as well as principal components do"


@dataclass(frozen=True, eq=False)
class Material:
    """The test images of a sweep and all that measurements on them need."""

    zoo: Zoo
    networks: SweepNetworks

    @property
    def sweep(self) -> Sweep:
        return self.networks.sweep

    @functools.cached_property
    def test(self) -> ImageSet:
        """The images, with labels and indices, on which the networks are measured."""
        return self.zoo.images(self.networks.data, "test").take(slice(0, self.sweep.images))

    @functools.cached_property
    def images(self) -> Tensor:
        """The pixels of these images, [N, C, H, W] in [0, 1]."""
        return self.test.pixels()

    @property
    def length(self) -> float:
        """The length, in pixels, of one unit of the data's own space."""
        return float(unit(self.networks.data))

    @functools.cached_property
    def tangents(self) -> dict[str, Tangents]:
        """{name: tangent spaces}; claims rest on the first."""
        return {name: _tangents(self.zoo, self.networks, name, self.images) for name in self.sweep.tangents}

    @property
    def first(self) -> Tangents:
        """The tangent spaces on which claims rest."""
        return self.tangents[self.sweep.tangents[0]]

    @functools.cached_property
    def by_class(self) -> Tensor:
        """The ideal gradients for each class, [N, classes, C, H, W]: the Bayes classifier's for closed forms, else
        class scores.
        """
        data = self.networks.data
        if data.info.closed:
            return _bayes_gradients(closed_forms.of(data.name), self.images)
        return scores.class_score(self._denoiser, self.images, self._sigma)

    @functools.cached_property
    def of_density(self) -> Tensor | None:
        """The scores without a class, [N, C, H, W]; None for closed forms."""
        return None if self.sweep.closed_form else scores.score(self._denoiser, self.images, self._sigma)

    @property
    def _denoiser(self):
        return self.zoo.obtain(self.networks.denoiser()).net

    @property
    def _sigma(self) -> float:
        return self.networks.denoising.sigma

    @functools.cached_property
    def partners(self) -> Tensor:
        """The index of another image for each image, int64 [N]."""
        return derangement(len(self.images), "derangement", "pairs").to(self.images.device)

    @functools.cached_property
    def steps(self) -> dict[tuple[str, float], Steps]:
        """{(name of tangent spaces, length in units of the data's own space): steps along and off them}."""
        noise = sensitivity.normal_draws(self.images, self.test.indices, self.sweep.draws, "steps")
        return {(name, size): sensitivity.steps(noise, tangents, size * self.length)
                for name, tangents in self.tangents.items() for size in self.sweep.sizes}

    @functools.cached_property
    def controls(self) -> dict[str, Tensor]:
        """Steps [R, N, D] that are off the first tangent spaces and smoother than white noise: `matched`, with the
        Fourier spectrum of steps along them, and `other`, along the tangent space of another image without its part
        along the image's own. There are none for closed forms, whose pixels have no neighbours and whose points in a
        subspace share a tangent space.
        """
        if self.sweep.closed_form:
            return {}
        made = {"matched": _matched(self).tensors()["moves"].to(self.images.device)}
        if len(self.first.bases) > 1:
            size = self.sweep.sizes[0] * self.length
            noise = sensitivity.normal_draws(self.images, self.test.indices, self.sweep.draws, "steps")
            other = sensitivity.steps(noise, self.first.at(self.partners), size).on
            made["other"] = sensitivity.off_part(other, self.first, size)
        return made

    @functools.cached_property
    def insides(self) -> dict[str, Tangents]:
        """{column: spaces of the same dimension} of which the share of the squared gradient is measured."""
        found = {f"inside, {name}": tangents for name, tangents in self.tangents.items()}
        if not self.sweep.closed_form:
            shape, dimension = self.images.shape[1:], self.first.bases.shape[2]
            modes = spaces.lowest_modes(shape, dimension).bases.to(self.images)
            found["inside, lowest frequencies"] = Tangents(modes)
            if len(self.first.bases) > 1:
                found["inside, another image's"] = self.first.at(self.partners)
        return found

    @functools.cached_property
    def matching(self) -> tuple[str, bool, str] | None:
        """The check of the matched steps (see `controls`): what is checked, whether it holds, the numbers."""
        if self.sweep.closed_form:
            return None
        meta = _matched(self).meta
        return spectrum.said(self.sweep.name, meta["inside"], meta["misplaced"])

    @functools.cached_property
    def quality(self) -> list[tuple[str, bool, str]]:
        """Checks of tangent spaces and score: (what is checked, whether it holds, the numbers)."""
        return _quality(self)


def _bayes_gradients(form, images: Tensor) -> Tensor:
    """The gradients of the exact log-posterior of each class, [N, classes, C, H, W]."""
    x = images.double().requires_grad_()
    every = form.log_posterior(x)
    rows = [torch.autograd.grad(every[:, c].sum(), x, retain_graph=True)[0] for c in range(every.shape[1])]
    return torch.stack(rows, 1).to(images.dtype)


def _matched(on: Material):
    """The entry of the store with the steps that match the spectrum of the first steps along the first tangent spaces,
    and what shares of them are not as they should be (`lib.manifold.spectrum.Matched`), means over steps.
    """
    sweep, name = on.sweep, on.sweep.tangents[0]

    def made(work: Path) -> dict:
        first = on.steps[name, sweep.sizes[0]].on
        found = spectrum.spectrum_matched(first, on.images, on.test.indices, on.first, "matched")
        save_tensors(work / "data.safetensors", {"moves": found.moves})
        return {"inside": float(found.inside.mean()), "misplaced": float(found.misplaced.mean()), "networks": [],
                "what": f"steps of the spectrum of steps along the manifold, {sweep.name}"}

    key = digest([VERSION, "matched", _source(on.networks, name), plain(on.networks.data), sweep.images, sweep.draws,
                  sweep.sizes[0]])
    return on.zoo.store.obtain("tangents", key, made)


def _source(networks: SweepNetworks, name: str) -> list:
    """What determines tangent spaces of a kind, besides the images."""
    sweep = networks.sweep
    return [name, networks.autoencoder().key if name == "auto-encoder" else [sweep.pca, sweep.neighbours]]


def _tangents(zoo: Zoo, networks: SweepNetworks, name: str, images: Tensor) -> Tangents:
    """Tangent spaces of a kind at the images; from the store if they take long to make."""
    sweep, data = networks.sweep, networks.data
    if name == "closed form":
        return Tangents(closed_forms.of(data.name).tangents(images))
    encoder = networks.autoencoder() if name == "auto-encoder" else None

    def made(work: Path) -> dict:
        if encoder:
            net = zoo.obtain(encoder).net
            with torch.no_grad():
                latents = net.encode(images)
            found = spaces.decoder_tangents(net.decode, latents, images.shape[1:])
        else:
            train = zoo.images(data, "train").pixels()
            found = (spaces.global_pca(train, sweep.pca) if name == "PCA"
                     else spaces.local_pca(images, train, sweep.pca, sweep.neighbours))
        save_tensors(work / "data.safetensors", {"bases": found.bases})
        return {"networks": [encoder.key] if encoder else [], "what": f"tangent spaces, {name}, of {data.name}"}

    key = digest([VERSION, "tangents", *_source(networks, name), plain(data), sweep.images])
    return Tangents(zoo.store.obtain("tangents", key, made).tensors()["bases"].to(images.device))


def _quality(on: Material) -> list[tuple[str, bool, str]]:
    zoo, sweep = on.zoo, on.sweep
    found = [(f"tangent spaces, {name}", True, tangents.warning or f"all of {tangents.bases.shape[2]} dimensions")
             for name, tangents in on.tangents.items()]
    if sweep.closed_form:
        return found
    source, how, encoder = on.networks.denoiser(), on.networks.denoising, on.networks.autoencoder()

    def made(work: Path) -> dict:
        train = zoo.images(source.data, "train").pixels()
        noise = sensitivity.normal_draws(on.images, on.test.indices, 1, "quality")
        each = scores.errors_against_wiener(zoo.obtain(source).net, train, on.images, how.sigma, noise)
        errors = {name: error.mean().item() for name, error in each.items()}
        centred = on.images - train.mean(0)
        around = centred.square().mean()
        if encoder:
            left = (zoo.obtain(encoder).net(on.images) - on.images).square().mean()
            linear = spaces.global_pca(train, encoder.arch.latent)
            rest = (centred - spaces.project(centred, linear)).square().mean()
            errors |= {"auto-encoder": float(left / around), "PCA": float(rest / around)}
        return {"errors": errors, "networks": [source.key], "what": f"quality of score and tangents of {sweep.name}"}

    key = digest([VERSION, "quality", source.key, how.sigma, encoder and encoder.key, plain(on.networks.data),
                  sweep.images])
    errors = zoo.store.obtain("quality", key, made).meta["errors"]
    found.append(scores.beats_wiener("denoiser", errors["denoiser"], errors["Wiener"], how.sigma))
    if encoder:
        found.append((KNOWS, errors["auto-encoder"] <= errors["PCA"],
                      f"it leaves {errors['auto-encoder']:.1%} of the test images' variance; {encoder.arch.latent} "
                      f"principal components leave {errors['PCA']:.1%}, and no more is allowed"))
    return found
