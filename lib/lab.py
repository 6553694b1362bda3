"""What JupyterLab needs of the library: the start notebook's overview and example, and notebooks saved without outputs.
"""

from __future__ import annotations

import functools
from typing import Any

from lib.papers import papers
from lib.papers.settings import load
from lib.plots.explorer import Explorer, accuracy_bars, percent
from lib.prices import announce
from lib.runtime import ROOT, device, threads
from lib.site import answers
from lib.store import Store


def without_outputs(path: str, model: dict[str, Any], contents_manager: Any = None, **_: Any) -> None:
    """Before JupyterLab saves one of the project's notebooks: drop outputs, counters and what the editor notes, so that
    running and looking changes no file under version control. Other notebooks are saved as they are. The arguments are
    those of Jupyter's pre_save_hook.
    """
    ours = {"start.ipynb", "your_network.ipynb", *(f"notebooks/{name}.ipynb" for name in papers())}
    if model["type"] != "notebook" or path.strip("/") not in ours:
        return
    page = model["content"]
    page["metadata"] = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                        "language_info": {"name": "python"}}
    for cell in page["cells"]:
        cell["metadata"] = {name: value for name, value in cell["metadata"].items() if name == "tags"}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None


def overview(profile: str = "smoke"):
    """A table in Markdown for the start notebook: each notebook's link and question, and what the store has of its
    networks in a profile.
    """
    from IPython.display import Markdown

    asked, settings, store = answers(ROOT / "results" / "reference"), load(profile), Store()
    rows = ["| notebook | question | networks |", "|---|---|---|"]
    for name in settings.notebooks:
        found = announce(settings, name, store, device(settings.device)).partition(": ")[2]
        rows.append(f"| [{name}](notebooks/{name}.ipynb) | {asked[name].question if name in asked else ''} | {found} |")
    return Markdown("\n".join(rows))


def example(profile: str = "smoke", live: bool | None = None) -> Explorer:
    """A normal and an adversarially trained network on digits, trained now if the store lacks them (seconds), attacked
    with the control `eps`, the largest change of a pixel (pixels lie in [0, 1]).
    """
    from lib.training.evaluation import evaluate
    from lib.training.zoo import Zoo
    from lib.values.attacks import PGD
    from lib.values.threats import Threat

    settings = load(profile)
    zoo, networks = Zoo(Store(), device(settings.device)), settings.networks
    nets = {name: zoo.obtain(networks.member(kind, 0, settings.seed)).net
            for name, kind in (("normal", "N"), ("adversarially trained", "R"))}
    images = zoo.images(networks.data, "test").take(slice(0, 100))
    trained = float(networks.threat.eps)

    @functools.cache
    def accuracies(eps: float) -> dict[str, dict[str, list[float]]]:
        found = {}
        for name, net in nets.items():
            with threads(1):
                one = evaluate(net, images, Threat("linf", f"{eps:g}"), PGD(10, f"{eps / 4:g}"), checked=False)
            found[name] = {"clean": [one.accuracy("clean")], "robust": [one.accuracy("robust")]}
        return found

    def draw(eps: float) -> tuple:
        found = accuracies(eps)
        said = "; ".join(f"{name}: {percent(row['clean'])} of the clean images and {percent(row['robust'])} of the "
                         "attacked ones are classified correctly" for name, row in found.items())
        return accuracy_bars(found, f"100 test digits, PGD with 10 steps, eps = {eps:g}"), f"{said}."

    every = {f"{share * trained:.3g}": share * trained for share in (1, 0.25, 0.5, 0.75, 1.25, 1.5)}
    return Explorer({"eps": every}, draw, live)
