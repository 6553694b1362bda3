"""A finished run's verdicts, computed again from the files it has left; every planted change is named."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from lib import claims
from lib.claims import Claim, Part
from lib.errors import OneLineError, SettingsError
from lib.profiles.frozen import FrozenClaim, FrozenPaper
from lib.statistics import Moments
from lib.values.keys import digest, plain


def part(name, statistic, **more) -> Part:
    return Part(**{"id": name, "what": f"the {name}", "statistic": statistic, "side": "above", "margin": 0.05,
                   "null_value": 0, **more})


CLAIM = Claim("C1a", "A gains on B.", "paper", "number not found", "abstract", "as it is done", ("laptop",), (
    part("gain", "difference"), part("bar", "difference", margin=0, null_value=None), part("slope", "seeds"),
    part("right", "accuracy"), part("similar", "map")))
OTHER = Claim("C2", "B gains on A.", "control", 0.5, "Table 1", "as it is done", ("laptop",), (part("gain", "seeds"),))
CHECKS = [{"name": "networks are trained", "ok": True, "detail": "81 %"}]


def made_up() -> dict:
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 401)) < 0.8, rng.random((3, 401)) < 0.6
    return {"C1a": {"gain": {"N->R at layer1.0": 1.0 * a - b, "MNIST: x/y": 1.0 * b - a}, "bar": {"x": a - 0.9 * b},
                    "slope": {"x": rng.normal(0.2, 0.01, 5)}, "right": {"x": 1.0 * a, "all": np.ones((3, 401))},
                    "similar": {"x": rng.normal(0.2, 0.01, (4, 8))}},
            "C2": {"gain": {"x": np.array([-1.0, 0.0, 1.0])}}}


def same(one, other):
    match one:
        case tuple():
            return type(other) is tuple and all(map(same, one, other))
        case Moments():
            return same(one.means, other.means) and (one.images, one.variance) == (other.images, other.variance)
    return np.array_equal(one, other)


@pytest.fixture
def run(tmp_path):
    """A run with one finished notebook."""
    folder = tmp_path / "laptop" / "notebook"
    judged = [claims.judge(CLAIM, made_up()["C1a"], "laptop", CHECKS),
              claims.judge(OTHER, made_up()["C2"], "laptop", [*CHECKS, {"name": "so is B", "ok": False, "detail": ""}])]
    claims.save(judged, folder / "claims.json")
    claims.write_evidence(made_up(), folder)
    (folder / "tables").mkdir()
    claims.evidence_table(judged, made_up()).to_csv(folder / "tables" / "evidence.csv", index=False)
    (folder / "snapshot.json").write_text(json.dumps({"claims": [plain(CLAIM), plain(OTHER)]}))
    (folder / "card.json").write_text(json.dumps({"profile": "laptop"}))
    return folder.parent


def test_evidence_is_kept_as_it_is_in_few_bytes(tmp_path):
    given = made_up()
    given["C2"]["gain"]["one value"] = np.zeros((5, 2000))
    given["C2"]["gain"]["outcomes"] = (np.random.default_rng(0).random((5, 2000)) < 0.5).astype(float)
    given["C2"]["gain"]["sets of images"] = made_up()["C1a"]["bar"]["x"], np.random.default_rng(1).random((2, 3, 50))
    given["C2"]["gain"]["seeds: only means"] = Moments(np.array([0.1, 0.3, 0.2]), 2000, 0.1)
    claims.write_evidence(given, tmp_path)
    found = claims.read_evidence(tmp_path)
    assert found.keys() == given.keys()
    for claim, parts in given.items():
        for name, instances in parts.items():
            assert list(found[claim][name]) == list(instances)
            for instance, data in instances.items():
                assert same(data, found[claim][name][instance])
    first = (tmp_path / "evidence.npz").read_bytes()
    claims.write_evidence(given, tmp_path)
    assert (tmp_path / "evidence.npz").read_bytes() == first and len(first) < 12_000, "10,000 outcomes are 1,250 bytes"


def test_a_finished_run_gives_the_same_verdicts_again(run):
    assert claims.verify(run) == (8, [])
    assert claims.verify(run / "notebook") == (8, [])


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(run):
    given = made_up()
    d = given["C1a"]["gain"]["N->R at layer1.0"]
    d[1, 7] = 1 - abs(d[1, 7])
    claims.write_evidence(given, run / "notebook")


def swap(run):
    given = made_up()
    given["C1a"]["gain"]["MNIST: x/y"][[0, 1]] = given["C1a"]["gain"]["MNIST: x/y"][[1, 0]]
    claims.write_evidence(given, run / "notebook")


def lose(run):
    given = made_up()
    del given["C1a"]["slope"]
    claims.write_evidence(given, run / "notebook")


@pytest.mark.parametrize("plant, said", [
    (flip, "C1a, parts, gain: N->R at layer1.0, value is "), (swap, "evidence.csv, C1a: gain: MNIST: x/y, seed 0 is "),
    (lose, "C1a, verdict is "),
    (lambda run: rewritten(run / "notebook/snapshot.json", lambda c: c["claims"][0]["parts"][2].update(margin=0.3)),
     "C1a, margins_hash is "),
    (lambda run: rewritten(run / "notebook/claims.json", lambda c: c[0]["parts"][3].update(threshold=0.04)),
     "C1a, parts, slope: x, threshold is 0.04, by its evidence 0.05"),
    (lambda run: rewritten(run / "notebook/claims.json", lambda c: c[0]["parts"][3].update(high=0.3)),
     "C1a, parts, slope: x, high is 0.3"),
    (lambda run: rewritten(run / "notebook/claims.json", lambda c: c[1].update(verdict="supported")),
     "C2, verdict is supported, by its evidence not tested"),
    (lambda run: rewritten(run / "notebook/claims.json", lambda c: c[1]["preconditions"][1].update(ok=True)),
     "C2, verdict is not tested, by its evidence undecided"),
    (lambda run: rewritten(run / "notebook/claims.json", lambda c: c[0].update(reason="")), "C1a, reason is "),
])
def test_a_planted_change_is_named(run, plant, said):
    plant(run)
    wrong = claims.verify(run)[1]
    assert f"\nlaptop/notebook: {said}" in "\n" + "\n".join(wrong)


def test_a_claim_changed_after_the_freeze_is_verified_too(run):
    place = run / "notebook"
    paper = FrozenPaper("notebook", "2026-01-01", "0123", "45", 6, (FrozenClaim("C1a", digest(CLAIM), "weak"),
                                                                    FrozenClaim("C2", "old", "supported")))
    rewritten(place / "snapshot.json", lambda c: c.update(frozen=asdict(paper)))
    rewritten(place / "claims.json", lambda c: [one.update(expected=expected, changed_after_seeing=changed)
                                                for one, (expected, changed) in
                                                zip(c, [("weak", False), ("supported", True)], strict=True)])
    assert claims.verify(run) == (8, [])
    rewritten(place / "claims.json", lambda c: c[1].update(changed_after_seeing=False))
    assert claims.verify(run)[1] == ["laptop/notebook: C2, changed_after_seeing is False, by its evidence True"]


def test_damaged_and_missing_files_are_one_sentence(run, tmp_path):
    with pytest.raises(SettingsError, match="it must be the folder of a finished run"):
        claims.verify(run / "notebook" / "tables")
    (run / "notebook" / "evidence.npz").write_bytes(b"PK")
    with pytest.raises(OneLineError, match=r"evidence.npz is damaged \(.*\); run its notebook again"):
        claims.verify(run)
    rewritten(run / "notebook/snapshot.json", lambda c: c.pop("claims"))
    with pytest.raises(OneLineError, match="notebook is damaged"):
        claims.verify(run)


def test_the_command_verifies_without_torch(run):
    code = ("import sys; from lib.cli import main; status = main(['verify', sys.argv[1]]); "
            "assert 'torch' not in sys.modules; sys.exit(status)")
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "8 comparisons computed again from their evidence; 0 differences\n"
    flip(run)
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 1 and "N->R at layer1.0" in done.stdout
