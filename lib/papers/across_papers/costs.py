"""What the notebook measures in addition to accuracies, for prices: the calls of the lenses in `results.measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.lenses.manifold import LENGTHS, Manifold, octaves
from lib.lenses.stitching import Stitching
from lib.papers.across_papers.networks import Repetition, cells
from lib.papers.across_papers.settings import Section
from lib.profiles.networks import Networks
from lib.values.attacks import PGD
from lib.values.measurement import Measurement

NOTES = ("not priced: activations that joints are fitted to, and the Fourier spectra of steps",)
UPDATE = 2.5  # passes of an update of a joint: forward, and back through the end, which is half of the network
BOTH = 2  # a network and its untrained twin; a trained and a matched joint


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Measurement]:
    """Joints with the reference, alignment, steps along and off the manifold, and similarity maps of every network."""
    return list(_each(section.own(networks), section, seed))


def _each(networks: Networks, section: Section, seed: Callable[[int], int]) -> Iterator[Measurement]:
    data, classes, seen, lens = networks.data, networks.data.info.classes, section.seen(networks), Manifold()
    joint = networks.objective(networks.robust.attack).passes(classes, networks.batch_size)
    training = section.joint_epochs * (UPDATE * joint.updates + joint.forwards + 2 * joint.attacks)
    attack = PGD(section.joint_steps, networks.threat.usual_step).passes(0.5, classes)
    moved = (1 + lens.draws) * len(LENGTHS) * (4 + len(octaves(data.shape)))
    fitted = BOTH * min(Stitching().fit, data.n_train) / data.n_train
    for cell in cells(networks, section, seed):
        if cell.measures:
            yield Measurement("trained and matched joints", cell.recipe, data.n_train, BOTH * (training + fitted))
            yield Measurement("attacks on stitched networks", cell.recipe, seen, BOTH * BOTH * attack)
            yield Measurement("gradients of all classes", cell.recipe, seen, 1 + 2 * classes)
            yield Measurement("steps along and off the manifold", cell.recipe, seen, moved)
            yield Measurement("similarity maps", cell.recipe, seen, 2)
    first = Repetition(networks, section, 0, seed)
    for number in (0, 1):
        yield Measurement("class scores of test images", first.teacher(number), seen, 1 + classes)
