"""What the notebook measures in addition to accuracies, for prices, besides what jobs make (`measured`)."""

from __future__ import annotations

from collections.abc import Callable

from lib.papers.across_papers.networks import Repetition
from lib.papers.across_papers.settings import Section
from lib.profiles.networks import Networks
from lib.values.measurement import Measurement

NOTES = ("not priced: activations that joints are fitted to, and the Fourier spectra of steps",)


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Measurement]:
    """The class scores of test images by both denoisers, which every batch job of lenses takes once."""
    first, passes = Repetition(networks, section, 0, seed), 1 + networks.data.info.classes
    return [Measurement("class scores of test images", first.teacher(number), section.seen(networks), passes,
                        f"lenses-{repetition}") for repetition in range(section.seeds) for number in (0, 1)]
