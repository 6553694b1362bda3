"""Across the papers: a small study that is trained and measured."""

import numpy as np
import pytest

from lib.lenses.alignment import SHARE, Alignment
from lib.lenses.lens import SUBJECT, Pool
from lib.lenses.manifold import ALONG, OFF, RATIO, Manifold
from lib.lenses.subject import Subject
from lib.papers import papers, settings
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.results import measure
from lib.papers.across_papers.settings import REFERENCE
from tests.kit.profiles import cells_of, given
from tests.kit.zoos import tiny_zoo

S = "across_papers"
ARMS = [{"name": "weak", "training": "PGD-AT", "threat": {"norm": "linf", "eps": .05}},
        {"name": "by mean", "training": "class mean", "strength": 1}]


@pytest.mark.slow
def test_measure_looks_at_every_network_as_the_lenses_do_and_replays(tmp_path):
    s = settings.load("test", {"first_seed": 0, "networks.data.train": 128, "networks.data.test": 30, f"{S}.arms": ARMS,
                               f"{S}.images": 24, f"{S}.batch": 12, **dict.fromkeys(papers().keys() - {S})})
    zoo = tiny_zoo(tmp_path, s, S)
    f = measure(zoo, cells_of(s, S), *given(s, S))
    looked_at = {c for c in f.cells if c.measures}
    assert {*f.outcomes} == {*f.fits} == {*f.twins} == {*f.alignment} == {*f.manifold} == looked_at and not f.failed
    assert all(len(table) == 24 for tables in (f.fits, f.twins, f.alignment, f.manifold) for table in tables.values())
    assert all(maps.views[-1] == REFERENCE and maps.batches == 2 for maps in f.maps.values()) and {*f.maps} == {0, 1}

    cell = next(c for c in f.cells if c.condition == Condition("by mean", "class mean") and c.repetition == 1)
    found, images = f.readings(cell), zoo.images(s.networks.data, "test").take(slice(0, 24))
    subject, pool = Subject.of_recipe(zoo, cell.recipe, "yours"), Pool(zoo, s.networks, s.seed)
    for lens, measured, name in ((Alignment(), SHARE, "alignment"), (Manifold(), RATIO.format(OFF, ALONG), "off")):
        rows = lens.measure(subject, pool, images)
        row = rows[(rows["role"] == SUBJECT) & (rows["measure"] == measured) & rows["at"].isin(["", "long"])].iloc[0]
        assert found[name] == pytest.approx(row["value"], nan_ok=True)
    assert np.isfinite([found["robust"], found["fit"], found["cka"]]).all()

    looks = [one for job in papers()[S].measured(*given(s, S)).values() for one in job]
    assert all(zoo.store.has(*one.entry) for one in looks) and len(looks) == len(looked_at) + 2
    again = tiny_zoo(tmp_path, s, S)
    replayed = measure(again, f.cells, *given(s, S))
    assert replayed.table().equals(f.table()) and not again.trained_here and replayed.readings(cell) == found
    assert {*again.store.used} >= {one.entry for one in looks}
    for one in looks:
        papers()[S].make(again, one)
