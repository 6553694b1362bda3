"""All figures that can be drawn from the published tables: legible, entitled, and nothing on anything else."""

import pytest
from matplotlib import pyplot as plt

from tests.kit.figures import legend_texts, overlaps
from tests.kit.published import PAPERS, PROFILES, Published


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("profile", PROFILES)
def test_figures_of_published_runs_are_legible(profile, paper):
    for name, figure in PAPERS[paper](Published(profile, paper)).items():
        assert not overlaps(figure), name
        assert len(set(legend_texts(figure))) <= 6, name
        title = figure.get_suptitle()
        assert title and len(title.splitlines()) <= 2, name
        assert figure.description.startswith(f"{' '.join(title.split(chr(10)))}. "), name


def test_a_legend_on_a_bars_value_is_found():
    figure, axis = plt.subplots(figsize=(6, 2))
    axis.barh([0, 1], [0.9, 0.95], label="clean")
    axis.text(1.0, -0.25, "95 %", va="center")
    axis.set_xlim(0, 1.1)
    axis.legend(loc="lower right")
    assert overlaps(figure) == ["'clean' and '95 %'", "legend on the panel ''"]
    axis.get_legend().remove()
    assert not overlaps(figure)
