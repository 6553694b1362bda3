"""What the notebook measures in addition to accuracies, for prices: sensitivity of every network, and what the
measurements need (`Material`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.gradients.lpips import why_no_lpips
from lib.papers.off_manifold_robustness.networks import MANIFOLD, SCORE, SweepNetworks, cells
from lib.papers.off_manifold_robustness.settings import Section
from lib.profiles.networks import Networks
from lib.values.measurement import Measurement

NOTES = ("not priced: principal components and Wiener filters (linear algebra), theory on closed forms, published "
         "networks", *filter(None, [why_no_lpips()]))


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Measurement]:
    """Class scores, tangent spaces, and the sensitivity of every network of a sweep or of the distractor."""
    return list(_each(networks, section, seed))


def _each(networks: Networks, section: Section, seed: Callable[[int], int]) -> Iterator[Measurement]:
    sweeps = {sweep.name: sweep for sweep in section.sweeps}
    for sweep in section.sweeps:
        of = SweepNetworks(networks, sweep, seed)
        if denoiser := of.denoiser():  # class scores, the score without a class, and the denoiser's error
            yield Measurement("class scores", denoiser, sweep.images, of.data.info.classes + 3)
        if encoder := of.autoencoder():  # a derivative for each latent, which is two passes of the decoder, a half
            yield Measurement("tangent spaces", encoder, sweep.images, 1 + encoder.arch.latent)
    for cell in cells(networks, section, seed):
        if cell.condition.kind in (MANIFOLD, SCORE):
            continue
        if sweep := sweeps.get(cell.condition.where):
            lengths = 2 * len(sweep.tangents) * len(sweep.sizes) + 2  # on and off, and once more in the l2 distance
            steps = sweep.draws * (lengths + (0 if sweep.closed_form else 2))  # and two controls
            yield Measurement("sensitivity", cell.recipe, sweep.images, steps + 6)  # and two gradients
        else:
            how = section.distractor  # noise on either half, and a gradient
            yield Measurement("sensitivity to halves", cell.recipe, how.images, 2 * how.draws * len(how.noise) + 3)
