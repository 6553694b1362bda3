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
from lib.manifold import sensitivity, spaces
from lib.manifold.sensitivity import Steps
from lib.manifold.spaces import Tangents
from lib.papers.off_manifold_robustness.networks import SweepNetworks, unit
from lib.papers.off_manifold_robustness.settings import Sweep
from lib.runtime import derangement
from lib.training.zoo import Zoo
from lib.values.keys import digest, plain

VERSION = 2  # raised when the same settings give other numbers


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
        """Steps [R, N, D] that are off the first tangent spaces but about as smooth as steps along them: `other`, along
        the tangent space of another image, and `phases`, with new Fourier phases, both without their part along the
        image's own. There are none for closed forms, whose pixels have no neighbours and whose points in a subspace
        share a tangent space.
        """
        if self.sweep.closed_form:
            return {}
        name, size = self.sweep.tangents[0], self.sweep.sizes[0]
        made = {"phases": sensitivity.phase_randomised(self.steps[name, size].on, self.images, self.test.indices)}
        if len(self.first.bases) > 1:
            noise = sensitivity.normal_draws(self.images, self.test.indices, self.sweep.draws, "steps")
            made["other"] = sensitivity.steps(noise, self.first.at(self.partners), size * self.length).on
        return {what: sensitivity.off_part(moves, self.first, size * self.length) for what, moves in made.items()}

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

    source = encoder.key if encoder else [sweep.pca, sweep.neighbours]
    key = digest([VERSION, "tangents", name, source, plain(data), sweep.images])
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
        found.append(("the auto-encoder knows the images", errors["auto-encoder"] < 0.5,
                      f"it leaves {errors['auto-encoder']:.1%} of the test images' variance (less than 50 % needed); "
                      f"{encoder.arch.latent} principal components leave {errors['PCA']:.1%}"))
    return found
