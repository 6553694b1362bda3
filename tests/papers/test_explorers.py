"""The explorers of the papers, on networks of test size: every control's first and last choice gives a figure, or says
in a sentence what was not measured.
"""

from importlib import import_module

import matplotlib.pyplot as plt
import pytest

from lib.errors import SettingsError
from lib.papers import papers
from lib.plots.explorer import png
from lib.study import Study


def made(name, study, results):
    explorer = import_module(f"lib.papers.{name}.explorer").explorer
    tables, section = import_module(f"lib.papers.{name}.tables"), study.section
    if name == "stitching":
        return explorer(tables.measured_at(results.table()), section)
    if name == "harp_pruning":
        return explorer(*(tables.of_weights(table, section) for table in (tables.rates(results), results.table())))
    if name == "across_papers":
        return explorer(tables.lenses(results))
    return explorer(results.table()) if name == "compact_robust_pruning" else explorer(study.zoo, results)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_STORE", str(tmp_path_factory.mktemp("store")))  # notebooks share the pool
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in papers() if name != "representation_similarity"])
def test_every_control_gives_a_figure(name):
    study = Study(name, {"profile": "test"})
    explorer = made(name, study, study.measure())
    first = dict(explorer.choice)
    assert png(explorer.figure()) and explorer.sentence().endswith(".")
    for control, values in explorer.options.items():
        for value in (list(values.values())[0], list(values.values())[-1]):
            explorer.choice = first | {control: value}
            try:
                assert png(explorer.figure()) and explorer.sentence().endswith(".")
            except SettingsError as error:
                assert "was not measured in this run" in str(error)
    assert not plt.get_fignums()
