"""The figures of published runs, drawn from their tables."""

from __future__ import annotations

import json

import pandas as pd

from lib.runtime import ROOT

FOLDER = ROOT / "results" / "reference"
PROFILES = ("smoke", "laptop")


class Published:
    """The tables and the settings of one paper's published run."""

    def __init__(self, profile: str, paper: str):
        self.folder = FOLDER / profile / paper
        self.settings = json.loads((self.folder / "card.json").read_text("utf-8"))["parameters"]

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def stitching(run: Published) -> dict:
    from lib.papers.stitching import figures
    from lib.papers.stitching.networks import PAIRS

    joints, middle = run.settings["joints"], run.settings["middle"]
    last = joints[-1]
    matrices = {name: run.table(name).fillna({"end": ""}) for name in ("matrix", "matrix_middle")}
    return {
        "depth": figures.stitching_depth(run.table("cells"), joints, list(PAIRS), run.settings["alphas"]),
        "middle": figures.bars_against_controls(run.table("middle"), f"after {middle}, α = 1"),
        "last": figures.bars_against_controls(run.table("last"), f"after {last}, α = 1"),
        "matrix": figures.stitching_matrix(matrices["matrix"], title=f"after {last}"),
        "matrix_middle": figures.stitching_matrix(matrices["matrix_middle"], title=f"after {middle}"),
    }


PAPERS = {"stitching": stitching}
