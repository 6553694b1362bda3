"""The figures of published runs, drawn from their tables."""

from __future__ import annotations

import json

import pandas as pd

from lib.runtime import ROOT
from tests.kit.figures import LAYERS

FOLDER = ROOT / "results" / "reference"
PROFILES = ("smoke", "laptop")


class Published:
    """The tables and the settings of one paper's published run."""

    def __init__(self, profile: str, paper: str):
        self.folder = FOLDER / profile / paper
        card = json.loads((self.folder / "card.json").read_text("utf-8"))
        self.settings, self.data = card["parameters"], card["networks_section"]["data"]["name"]

    def table(self, name: str) -> pd.DataFrame:
        """One of the run's tables; empty cells are NaN."""
        return pd.read_csv(self.folder / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])

    def has(self, name: str) -> bool:
        """Whether the run has a table."""
        return (self.folder / "tables" / f"{name}.csv").exists()


def stitching(run: Published) -> dict:
    from lib.papers.stitching import figures
    from lib.papers.stitching.networks import PAIRS

    joints, middle = run.settings["joints"], run.settings["middle"]
    first, late = (middle, middle) if isinstance(middle, str) else (middle[0], middle[-1])  # once one
    last = joints[-1]
    bars = {name: figures.bars_against_controls(run.table(name), f"after {joint}, α = 1")
            for name, joint in (("middle", first), ("late", late), ("last", last)) if run.has(name)}
    matrices = {name: figures.stitching_matrix(run.table(name).fillna({"end": ""}), title=f"after {joint}")
                for name, joint in (("matrix", last), ("matrix_middle", first), ("matrix_late", late)) if run.has(name)}
    cells = run.table("cells")
    fitted = {"fitted": figures.direct_matching(cells, joints)} if run.settings["direct"] else {}
    return {"depth": figures.stitching_depth(cells, joints, list(PAIRS), run.settings["alphas"]), **bars, **fitted,
            **matrices}


def representation_similarity(run: Published) -> dict:
    from lib.papers.representation_similarity import figures, reference

    positions = run.table("perturbed").position.max() + 1
    drawn = {
        "distance": figures.against_distance(run.table("distance"), "depth", reference.by_distance()),
        "summary": figures.summary_strip(run.table("summaries"), reference=reference.summaries()),
        "second": figures.summary_strip(run.table("second")),
        "kinds": figures.kind_matrix(run.table("kinds")),
        "threats": figures.kind_matrix(run.table("threats")),
        "perturbed": figures.per_layer(run.table("perturbed"), (LAYERS * 9)[:positions]),
    }
    if run.has("strengths"):
        drawn["strength"] = figures.dose_response(run.table("strengths"), "ε in linf")
    return drawn


def compact_robust_pruning(run: Published) -> dict:
    from lib.papers.compact_robust_pruning import figures, reference

    return {"retained": figures.retained(run.table("shares"), reference.published()),
            "grid": figures.objective_grid(run.table("grid")), "rules": figures.pruning_rules(run.table("rules"))}


def harp_pruning(run: Published) -> dict:
    from lib.papers.harp_pruning import figures, reference

    accuracies, rates, searches = (
        table[(table.granularity == "weights") & (table.training == table.training.iloc[0])]
        for table in map(run.table, ("accuracies", "rates", "searches")))
    published = reference.published() if run.data == "cifar10" else None
    return {"compression": figures.compression(accuracies, published),
            "rates": figures.keep_rates(rates, run.table("rules")), "search": figures.pruning_search(searches)}


def off_manifold_robustness(run: Published) -> dict:
    from lib.papers.off_manifold_robustness import evidence, figures, gradients, reference, regimes

    found, swept, drawn = run.table("sensitivity").query("diverged.isna()"), {}, {}
    for sweep in run.settings["sweeps"]:
        name, mine = sweep["name"], found[found["where"] == sweep["name"]]
        none = mine[mine.kind == "none"]
        swept[name] = pd.concat([part for kind in ("gradient norm", "smoothness", "noise", "PGD")
                                 for part in (none.assign(kind=kind), mine[mine.kind == kind])
                                 if (mine.kind == kind).any()], ignore_index=True)
        drawn[f"controls_{name}"] = figures.step_controls(swept[name], sweep["tangents"],
                                                          [float(size) for size in sweep["sizes"]], name)
        drawn[f"alignments_{name}"] = figures.alignment_variants(swept[name], mine[mine.kind == "untrained"], name)
    published = {"CIFAR-10": reference.published()} if "CIFAR-10" in swept else {}
    return {
        **drawn,
        "theory": figures.off_manifold_theory(run.table("theory"), evidence.theory_margins()),
        "curves": regimes.regime_curves(swept, {name: 0.1 for name in swept}, published, dead=run.settings["on"]),
        "distractor": gradients.distractor_ratio(run.table("distractor")),
        "distractor_gradients": gradients.distractor_gradients(run.table("energies")),
    }


def perceptually_aligned_gradients(run: Published) -> dict:
    """Without the attack curves, which are not saved; intervals are over repetitions."""
    from lib.papers.perceptually_aligned_gradients import figures, reference, tables
    from lib.plots.titles import mean

    drawn = {}
    for name, mine in run.table("networks_measured").query("diverged.isna()").groupby("where", sort=False):
        mine = mine.rename(columns={"kind": "method", "own, independent score": "alignment"})
        mine = mine.assign(group=mine.method.map(tables.group))
        parts = []
        for threat, column in (("clean", "clean"), ("l2 0.75", "robust l2"), ("linf 4/255", "robust linf")):
            part = mine.assign(threat=threat, accuracy=mine[column])
            part = part[part.weight == part.groupby("method").weight.transform("min")]
            bounds = part.groupby("method").accuracy.agg(lambda values: mean(values)[1:])
            parts.append(part.assign(low=part.method.map(lambda one, at=bounds: at[one][0]),
                                     high=part.method.map(lambda one, at=bounds: at[one][1])))
        drawn[f"methods_{name}"] = figures.methods(pd.concat(parts), f"accuracy, {name}")
        robust = mine.assign(accuracy=mine["robust l2"])
        drawn[f"tracks_{name}"] = figures.alignment_against_robustness(robust, f"robust accuracy, {name}, l2")
        swept = robust[robust.method.isin(["vanilla", "score", "permuted classes"])]
        published = reference.weights() if name == "CIFAR-10" else None
        drawn[f"strengths_{name}"] = figures.strengths(swept, f"robust accuracy, {name}, l2", reference=published)
    return drawn


PAPERS = {found.__name__: found for found in (
    stitching, representation_similarity, compact_robust_pruning, harp_pruning, off_manifold_robustness,
    perceptually_aligned_gradients)}
