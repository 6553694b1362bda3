"""Claims: the file's checks, each rule of the judge, its false decisions by simulation, and what is written."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lib import claims
from lib.claims import Claim, Part, Precondition, judge, sheet
from lib.errors import SettingsError
from lib.profiles import LADDER
from lib.profiles.frozen import load_frozen
from lib.values.keys import digest

IMAGES = 400


def part(name="gain", **changes) -> Part:
    return Part(**{"id": name, "what": f"the {name}", "statistic": "difference", "side": "above", "margin": 0.05,
                   **changes})


def claim(*parts, **changes) -> Claim:
    return Claim(**{"id": "C1a", "statement": "A gains on B.", "asks": "paper", "paper_value": "number not found",
                    "paper_source": "abstract", "protocol": "as it is done", "scope": ("laptop",),
                    "parts": parts or (part(),), **changes})


def data(mean, seeds=3, spread=0.01, images=IMAGES):
    """Differences [seeds, images] of exactly this mean, whose interval is about +-3 points wide."""
    d = np.zeros((seeds, images))
    for s, shift in enumerate(np.linspace(-spread, spread, seeds)):
        plus = round(images * (abs(mean + shift)))
        d[s, :plus] = np.sign(mean + shift)
    return d


def verdict(c, evidence, profile="laptop", preconditions=()):
    return judge(c, evidence, profile, preconditions)


# ------------------------------------------------------------------------------------------------------------- judging


@pytest.mark.parametrize("side, margin, mean, wanted", [
    ("above", 0.05, 0.15, "supported"), ("above", 0.05, 0.06, "undecided"), ("above", 0.05, -0.05, "contradicted"),
    ("below", 0.05, -0.05, "supported"), ("below", 0.05, 0.06, "undecided"), ("below", 0.05, 0.15, "contradicted"),
    ("within", 0.05, 0.002, "supported"), ("within", 0.05, 0.05, "undecided"), ("within", 0.05, 0.15, "contradicted"),
    ("within", 0.05, -0.15, "contradicted"),
])
def test_each_side(side, margin, mean, wanted):
    got = verdict(claim(part(side=side, margin=margin)), {"gain": {"x": data(mean)}})
    assert got.verdict == wanted
    assert got.rows[0].verdict == wanted
    assert bool(got.reason) == (wanted != "supported")


def steady(mean):
    """Five values of this mean whose 95 % interval is 0.001 wide to either side."""
    return mean + np.array([-1.0, 1.0, 0.0, -1.0, 1.0]) * 0.001 / 1.2417


@pytest.mark.parametrize("mean, null_value, wanted", [
    (0.06, 0, "supported"), (0.0505, 0, "undecided"), (0.03, 0, "weak"), (0.0005, 0, "absent"),
    (-0.0005, 0, "absent"), (-0.002, 0, "contradicted"), (0.03, None, "contradicted"), (0.03, 0.04, "contradicted"),
    (0.0495, 0.05, "undecided"), (0.04, 0.05, "contradicted"),
])
@pytest.mark.parametrize("side, sign", [("above", 1), ("below", -1)])
def test_an_effect_that_is_smaller_than_the_margin_is_told_from_one_of_the_other_sign(mean, null_value, wanted, side,
                                                                                      sign):
    null_value = null_value and sign * null_value
    one = claim(part(statistic="seeds", side=side, margin=sign * 0.05, null_value=null_value))
    got = verdict(one, {"gain": {"x": steady(sign * mean)}})
    row = got.rows[0]
    assert got.verdict == row.verdict == wanted and row.null_value == null_value
    assert row.high - row.value == pytest.approx(0.001, rel=1e-3)
    assert wanted == "undecided" or row.p < 0.025
    assert ("the other direction" in got.reason) == (wanted == "contradicted" and null_value is not None)
    assert ("has the claimed direction" in got.reason) == (wanted == "weak")


def test_a_claim_is_as_good_as_its_worst_part():
    found = {"supported": 0.06, "weak": 0.03, "undecided": 0.0505, "absent": 0.0, "contradicted": -0.03}
    parts = [part(word, statistic="seeds", null_value=0) for word in found]
    order = ["supported", "weak", "undecided", "absent", "contradicted"]  # from best to worst
    for worst in range(1, 6):
        among = [one for one in parts if order.index(one.id) < worst]
        got = verdict(claim(*among), {one.id: {"x": steady(found[one.id])} for one in among})
        assert got.verdict == order[worst - 1] and got.decisive.name == f"{order[worst - 1]}: x"
        assert got.at_best == ("weak" if got.verdict == "undecided" else "")
    assert claims.table([got])["verdict"][0] == "contradicted"
    open_ = verdict(claim(*parts[:3]), {one.id: {"x": steady(found[one.id])} for one in parts[:3]})
    assert claims.table([open_])["verdict"][0] == "undecided, at best weak"


def test_the_best_of_several_instances_is_judged_where_any_may_pass():
    some = claim(part(statistic="seeds", null_value=0, combine="any"))
    for means, wanted in (((0.06, -0.03), "supported"), ((0.03, -0.03), "weak"), ((0.0, -0.03), "absent"),
                          ((-0.02, -0.03), "contradicted"), ((0.0505, 0.03), "undecided")):
        got = verdict(some, {"gain": {f"x{mean}": steady(mean) for mean in means}})
        assert (got.verdict, got.decisive.name) == (wanted, f"gain: x{means[0]}")


def test_a_miss_of_one_among_many_comparisons_needs_their_corrected_interval():
    values = np.array([-0.6, -0.5, -0.4, -0.7, -0.3])  # half-width 0.196 at 95 %, 0.42 for one of 20
    near = part(statistic="seeds", margin=0.0, null_value=-0.3)
    for n, wanted in ((1, "contradicted"), (20, "absent")):
        got = verdict(claim(near), {"gain": {f"x{i}": values + 10 * (i > 0) for i in range(n)}})
        assert got.verdict == wanted


def test_within_is_judged_by_90_percent_and_contradicted_by_95():
    values = np.array([-1.0, 0.0, 1.0])  # half-widths: 90 % 1.69, 95 % 2.48
    two = part(statistic="seeds", side="within", margin=2.0)
    got = verdict(claim(two), {"gain": {"x": values}})
    assert got.verdict == "supported" and got.rows[0].level == 0.9 and got.rows[0].p < 0.05
    assert verdict(claim(two), {"gain": {"x": values + 4.0}}).verdict == "undecided"
    assert verdict(claim(two), {"gain": {"x": values + 4.6}}).verdict == "contradicted"


def test_reasons_name_the_instance_and_its_numbers():
    evidence = {"gain": {"stem": data(0.15), "layer2.0": data(-0.05)}}
    got = verdict(claim(), evidence)
    assert got.verdict == "contradicted" and got.decisive.name == "gain: layer2.0"
    assert got.reason.startswith("The gain, layer2.0, is -5.0 points (95 % interval -")
    assert got.reason.endswith("the claim needs more than +5.0 points.")
    got = verdict(claim(), {"gain": {"stem": data(0.15), "layer2.0": data(0.06)}})
    assert got.verdict == "undecided" and "layer2.0, is +6.0 points" in got.reason
    assert got.reason.endswith("so it may or may not be more than +5.0 points.")
    zero = verdict(claim(part(statistic="accuracy", side="below")), {"gain": {"N->R": np.ones((3, 200))}})
    assert zero.verdict == "contradicted" and "N->R, is 100.0 %" in zero.reason and "less than 5.0 %" in zero.reason


def test_order_of_the_rules():
    good, bad = {"gain": {"x": data(0.15)}}, Precondition("robust networks are robust", False, "20 %, 25 % needed")
    got = verdict(claim(), {}, "test", [bad])
    assert got.verdict == "not tested" and "profile test" in got.reason and "laptop" in got.reason
    assert verdict(claim(), {}).reason == "No measurement of the gain."
    assert verdict(claim(), {}, preconditions=[bad]).reason.startswith("Precondition not met: robust networks are")
    assert verdict(claim(), {"gain": {}}).verdict == "not tested"
    got = verdict(claim(), good, preconditions=[Precondition("a", True), bad, Precondition("exact", False)])
    assert (got.verdict, got.withheld) == ("not tested", "supported") and got.rows and math.isnan(got.p)
    assert claims.table([got])["verdict"][0] == "not tested (withheld: supported)"
    assert claims.expected_false_decisions([got]) == 0 and math.isnan(claims.with_holm([got])[0].rows[0].p_holm)
    assert [check["ok"] for check in got.to_dict()["preconditions"]] == [True, False, False]
    assert got.reason == "Precondition not met: robust networks are robust (20 %, 25 % needed); exact."
    assert verdict(claim(), good, preconditions=[{"name": "a", "ok": True, "detail": ""}]).verdict == "supported"


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("mean", [-0.3, 0.3])
def test_fewer_than_three_seeds_decide_nothing(seeds, mean):
    got = verdict(claim(), {"gain": {"x": data(mean, seeds, spread=0)}})
    assert got.verdict == "undecided" and "fewer than 3" in got.reason
    assert claims.expected_false_decisions([got]) == 0
    got = verdict(claim(part(combine="any")), {"gain": {"x": data(mean, seeds, spread=0)}})
    assert got.verdict == "undecided"


def test_no_spread_over_seeds_is_no_certainty():
    got = verdict(claim(part(statistic="seeds")), {"gain": {"x": np.full(5, 0.3)}})
    assert got.verdict == "undecided" and "spread is unknown" in got.reason
    json.dumps(got.to_dict(), allow_nan=False)


def crossed(mean, batches=8, seeds=4):
    """Pseudo-values [seeds, minibatches] of this mean; half-widths of the 90 and 95 % intervals: 0.00997 and 0.0127."""
    rows, columns = np.linspace(-0.01, 0.01, seeds), np.linspace(-0.01, 0.01, batches)
    return mean + rows[:, None] + columns[None, :]


@pytest.mark.parametrize("side, margin, mean, wanted", [
    ("above", 0.05, 0.19, "supported"), ("above", 0.05, 0.055, "undecided"), ("above", 0.05, -0.3, "contradicted"),
    ("below", -1.5, -1.6, "supported"), ("below", 1.5, 1.6, "contradicted"), ("above", 0, 0.02, "supported"),
    ("within", 0.05, 0.04, "supported"), ("within", 0.05, 0.041, "undecided"), ("within", 0.05, 0.06, "undecided"),
    ("within", 0.05, -0.065, "contradicted"),
])
def test_maps_on_each_side_with_any_margin(side, margin, mean, wanted):
    got = verdict(claim(part(statistic="map", side=side, margin=margin)), {"gain": {"x": crossed(mean)}})
    assert got.verdict == wanted
    row = got.rows[0]
    assert (row.value, row.seeds, row.images) == (pytest.approx(mean), 4, 0)
    assert row.method == "two-way t, 8 minibatches"
    json.dumps(got.to_dict(), allow_nan=False)


def test_maps_are_told_in_plain_numbers():
    low = part(statistic="map", margin=0.05, paper_value=0.19)
    got = verdict(claim(low), {"gain": {"x": crossed(-0.0712)}})
    assert got.reason == ("The gain, x, is -0.071 (95 % interval -0.084 to -0.058): "
                          "the claim needs more than +0.050.")
    assert got.rows[0].size == "smaller"
    for side, margin, wanted in (("above", 0, "more than 0"), ("below", 0.9, "less than +0.900"),
                                 ("within", 0.2, "within ±0.200")):
        got = verdict(claim(part(statistic="map", side=side, margin=margin)), {"gain": {"x": crossed(0.1)}})
        assert claims.table([got])["needed"][0] == wanted


def test_maps_without_an_interval_are_undecided():
    gain = claim(part(statistic="map"))
    few = verdict(gain, {"gain": {"x": crossed(0.3, seeds=2)}})
    assert few.verdict == "undecided" and few.reason == ("The gain, x, is +0.300 from 2 seeds; fewer than 3 decide "
                                                         "nothing.")
    same = verdict(gain, {"gain": {"x": np.tile(crossed(0.3)[:1], (4, 1))}})
    assert same.verdict == "undecided" and same.reason.endswith("for each of 4 seeds, so their spread is unknown.")
    same = verdict(gain, {"gain": {"x": np.tile(crossed(0.3)[:, :1], (1, 8))}})
    assert same.reason.endswith("in every minibatch of images, so their spread is unknown.")
    with pytest.raises(SettingsError, match="claim C1a, part gain, x: minibatches = 1"):
        verdict(gain, {"gain": {"x": crossed(0.3, batches=1)}})


def test_all_parts_must_hold_and_one_contradicts():
    two = claim(part("a"), part("b", side="below"))
    yes, no, open_ = data(0.15), data(-0.05), data(0.06)
    assert verdict(two, {"a": {"x": yes}, "b": {"x": no}}).verdict == "supported"
    assert verdict(two, {"a": {"x": open_}, "b": {"x": no}}).verdict == "undecided"
    got = verdict(two, {"a": {"x": open_}, "b": {"x": yes}})
    assert got.verdict == "contradicted" and got.decisive.name == "b: x" and len(got.rows) == 2
    assert "b" in verdict(two, {"a": {"x": yes}}).reason


def test_all_allows_for_having_looked_at_many():
    values = np.array([-0.6, -0.5, -0.4, -0.7, -0.3])  # below 0 at 95 %, and not at Bonferroni's level of many
    near = part(statistic="seeds", margin=-0.3)
    wanted = {1: "contradicted", 20: "undecided"}
    for n, expected in wanted.items():
        evidence = {"gain": {f"x{i}": values + 10 * (i > 0) for i in range(n)}}
        got = verdict(claim(near), evidence)
        assert got.verdict == expected
    assert "one such miss among 20 comparisons may be chance" in got.reason


def test_any_needs_one_after_holm_and_is_contradicted_by_all():
    values = np.array([0.5, 0.6, 0.4, 0.7, 0.3])
    some = part(statistic="seeds", margin=0.3, combine="any")
    alone = verdict(claim(some), {"gain": {"x": values}})
    assert alone.verdict == "supported" and alone.p == pytest.approx(0.0237, abs=1e-3)
    many = verdict(claim(some), {"gain": {"x": values, "y": values - 0.3, "z": values - 0.25}})
    assert many.verdict == "undecided" and many.decisive.name == "gain: x" and many.p == pytest.approx(3 * alone.p)
    none = verdict(claim(some), {"gain": {"x": values - 1, "y": values - 2}})
    assert none.verdict == "contradicted" and "at best" in none.reason and none.decisive.name == "gain: x"


def test_false_decisions_stay_at_their_level():
    """Four instances of five seeds with a common seed effect, the truth on the margin: every verdict is false."""
    rng, repeats = np.random.default_rng(1), 400
    any_of = claim(part(statistic="seeds", margin=0.0, combine="any"))
    all_of = claim(part(statistic="seeds", margin=0.0))
    same = claim(part(statistic="seeds", side="within", margin=3.0))
    false = dict.fromkeys(("any", "uncorrected any", "all contradicted", "uncorrected all", "all", "within"), 0)
    for _ in range(repeats):
        shared = rng.normal(0, 0.3, 5)
        values = [shared + rng.normal(0, 1, 5) for _ in range(4)]

        def judged(c, *shifts, values=values):
            instances = {str(k): v + d for k, (v, d) in enumerate(zip(values, shifts, strict=True))}
            return judge(c, {"gain": instances}, "laptop")

        best = judged(any_of, 0, 0, 0, 0)
        false["any"] += best.verdict == "supported"
        false["uncorrected any"] += any(row.low > 0 for row in best.rows)
        false["uncorrected all"] += any(row.high < 0 for row in best.rows)
        false["all contradicted"] += judged(all_of, 0, 0, 0, 0).verdict == "contradicted"
        false["all"] += judged(all_of, 0, 5, 5, 5).verdict == "supported"
        false["within"] += judged(same, 3, 0, 0, 0).verdict == "supported"
    rates = {name: n / repeats for name, n in false.items()}
    assert max(rates["any"], rates["all contradicted"], rates["all"]) <= 0.035 and rates["within"] <= 0.065, rates
    assert min(rates["uncorrected any"], rates["uncorrected all"]) > 0.05, rates


def test_agreement_with_the_papers_size_is_its_own_field():
    for value, wanted in ((0.30, "smaller"), (0.15, "consistent"), (0.02, "larger"), (None, None)):
        got = verdict(claim(part(paper_value=value)), {"gain": {"x": data(0.15)}})
        assert got.verdict == "supported" and got.rows[0].size == wanted


def test_mistakes_in_evidence_are_errors():
    with pytest.raises(SettingsError, match="unknown part of claim C1a 'gian'; did you mean 'gain'"):
        verdict(claim(), {"gian": {"x": data(0.1)}})
    with pytest.raises(SettingsError, match="claim C1a, part gain, stem: d = of shape"):
        verdict(claim(), {"gain": {"stem": np.zeros(3)}})


# ------------------------------------------------------------------------------------------------- a paper's claims


def judged_paper():
    texts = [claim(id=f"C{i}") for i in (1, 2, 3)]
    return [verdict(texts[0], {"gain": {"x": data(0.15), "y": data(0.12)}}),
            verdict(texts[1], {"gain": {"x": data(-0.05)}}), verdict(texts[2], {}, "test")]


def test_what_is_saved(tmp_path):
    path = tmp_path / "deep" / "claims.json"
    claims.save(judged_paper(), path)
    claims.save(judged_paper(), path)
    rows = json.loads(path.read_text())
    assert [row["verdict"] for row in rows] == ["supported", "contradicted", "not tested"]
    assert {"id", "statement", "verdict", "parts", "paper_value", "paper_source", "protocol", "figure", "reason",
            "margins_hash"} <= set(rows[0])
    assert {"name", "value", "low", "high", "threshold", "side", "seeds", "images", "verdict", "null_value", "p",
            "p_holm"} <= set(rows[0]["parts"][0])
    first = rows[0]["parts"][0]
    assert (first["name"], first["seeds"], first["images"], first["verdict"]) == ("gain: x", 3, IMAGES,
                                                                                     "supported")
    assert first["value"] == pytest.approx(0.15, abs=2e-3)
    assert rows[2]["parts"] == [] and rows[2]["p"] is None
    assert all(part["p"] <= part["p_holm"] for row in rows for part in row["parts"])
    assert [p.name for p in path.parent.iterdir()] == ["claims.json"]


def test_table_and_expected_false_decisions():
    judged = judged_paper()
    shown = claims.table(judged)
    assert list(shown["claim"]) == ["C1", "C2", "C3"] and shown["measured"][0].startswith("+12.0 points")
    assert shown["needed"][0] == "more than +5.0 points" and shown["measured"][2] == ""
    assert (shown["p (Holm)"][:2] >= shown["p"][:2]).all()
    assert claims.expected_false_decisions(judged) == pytest.approx(0.05)
    same = verdict(claim(part(side="within")), {"gain": {"x": data(0.001)}})
    assert claims.expected_false_decisions([same]) == pytest.approx(0.05)
    either = verdict(claim(part(null_value=0)), {"gain": {"x": data(0.03)}})
    assert claims.expected_false_decisions([either]) == pytest.approx(0.05)
    assert claims.table([]).empty and claims.expected_false_decisions([]) == 0


def test_the_evidence_table_has_every_repetition_and_its_mean_is_the_verdict_s_value():
    parts = (part(), part("share", statistic="ratio", margin=0.5), part("slope", statistic="seeds", margin=0))
    right = np.arange(10) < np.array([[4, 6, 5], [8, 8, 8]])[..., None]  # [2, seeds, images]
    given = {"gain": {"x": data(0.15), "y": (np.stack([data(0.1), data(0.2)]), data(0.3, images=100))},
             "share": {"x": right}, "slope": {"x": np.array([1., 2, 3])}}
    judged = verdict(claim(*parts), given)
    table = claims.evidence_table([judged], {"C1a": given})
    assert list(table) == ["claim", "part", "instance", "statistic", "seed", "value", "over"] and len(table) == 12
    assert table["seed"].tolist() == [0, 1, 2] * 4
    assert table["over"].tolist() == [IMAGES] * 3 + [IMAGES + 100] * 3 + [10] * 3 + [1] * 3
    means = table.groupby(["part", "instance"])["value"].mean()
    for row in judged.rows:
        if row.statistic != "ratio":
            assert means[tuple(row.name.split(": "))] == pytest.approx(row.value)
    assert table[table.part == "share"]["value"].tolist() == pytest.approx([0.5, 0.75, 0.625])
    assert claims.evidence_table([verdict(claim(), {})], {}).empty


def test_the_hash_covers_text_and_margins():
    base = verdict(claim(), {}).margins_hash
    assert base == verdict(claim(), {"gain": {"x": data(0.1)}}).margins_hash
    for other in (claim(part(margin=0.049)), claim(statement="A gains a lot on B."), claim(part(combine="any")),
                  claim(scope=("gpu", "laptop")), claim(protocol="otherwise")):
        assert verdict(other, {}).margins_hash != base


# ------------------------------------------------------------------------------------------------------- claims files

GOOD = """
paper: {title: T, authors: A, venue: V, key: k, url: "https://example.org/k"}
claims:
  - id: C1
    statement: S
    asks: paper
    paper_value: 0.5
    paper_source: Table 1
    protocol: P
    from: laptop
    parts:
      - {id: gain, what: the gain, statistic: difference, side: above, margin: 0.02, null_value: 0}
"""


def read(tmp_path, text):
    path = tmp_path / "paper.yaml"
    path.write_text(text)
    return claims.load(path)


def test_a_good_file(tmp_path):
    paper = read(tmp_path, GOOD)
    assert paper["C1"].parts[0].combine == "all" and [c.id for c in paper] == ["C1"]
    with pytest.raises(SettingsError, match="unknown claim 'C2'"):
        paper["C2"]


@pytest.mark.parametrize("lines, scope", [
    ("from: smoke", ("smoke", "laptop", "gpu", "paper")), ("from: paper", ("paper",)),
    ("from: imagenet", ("imagenet",)), ("from: smoke\n    skips: [gpu, laptop]", ("smoke", "paper")),
    ("from: null\n    needs: a network", ()), ("needs: a network", ()),
])
def test_a_claim_says_from_which_profile_on_it_is_tested(tmp_path, lines, scope):
    assert read(tmp_path, GOOD.replace("from: laptop", lines))["C1"].scope == scope


@pytest.mark.parametrize("paper, claim_id, scope", [
    ("stitching", "C1a", ("smoke", "laptop", "gpu", "paper")), ("stitching", "C5b", ("laptop", "gpu", "paper")),
    ("representation_similarity", "C7a", ("smoke", "laptop", "paper")), ("harp_pruning", "C7", ("paper",)),
    ("harp_pruning", "C9", ("imagenet",)),
])
def test_scopes_of_claims(paper, claim_id, scope):
    assert claims.load(paper)[claim_id].scope == scope


@pytest.mark.parametrize("old, new, message", [
    ("margin: 0.02", "margin: 2", r"claim C1, part gain, margin = 2 is not possible.*from -1 to 1"),
    ("margin: 0.02", "margin: true", "margin = True"),
    ("margin: 0.02", "margn: 0.02", "part gain, unknown setting 'margn'; did you mean 'margin'"),
    ("margin: 0.02", "margin: 8/255", "margin = 8/255 is not possible: it must be a finite number"),
    ("paper_value: 0.5", "paper_value: .nan", "paper_value = nan"),
    ("paper_value: 0.5", "paper_value: []", r"paper_value = \[\] is not possible: it must be a number or text"),
    ("asks: paper", "asks: nobody", "asks 'nobody'"), ("    asks: paper\n", "", "claim C1, asks is missing"),
    (", null_value: 0", "", "part gain, null_value = left out is not possible: it must be the value of no effect"),
    ("null_value: 0", "null_value: 0.03", "null_value = 0.03 is not possible: it must be at most the margin 0.02"),
    ("side: above, margin: 0.02", "side: below, margin: 0.02", "at least the margin 0.02"),
    ("side: above", "side: within", "null_value = 0 is not possible: it must be left out"),
    (", margin: 0.02", "", "claim C1, part gain, margin is missing"),
    ("side: above", "side: abov", "side 'abov'; did you mean 'above'"),
    ("difference, side: above", "accuracy, side: within", "side within"),
    ("statistic: difference", "statistic: diff", "did you mean 'difference'"),
    ("statement: S", "statement: ''", "claim C1, statement = '' is not possible: it must be text"),
    ("statement: S", "statment: S", "claim C1, unknown setting 'statment'; did you mean 'statement'"),
    ("from: laptop", "from: labtop", "unknown profile in from 'labtop'; did you mean 'laptop'"),
    ("from: laptop", "form: laptop", "'form'; did you mean 'from'"),
    ("from: laptop", "from: [laptop]", r"unknown profile in from '\['laptop'\]'"),
    ("from: laptop", "scope: [laptop]", "unknown setting 'scope'"),
    ("from: laptop", "from: laptop\n    skips: gpu", "it must be a list"),
    ("from: laptop", "from: laptop\n    skips: [gpt]", "unknown profile in skips 'gpt'; did you mean 'gpu'"),
    ("from: laptop", "from: laptop\n    skips: [smoke]", "unknown profile in skips 'smoke'"),
    ("from: laptop", "from: imagenet\n    skips: [imagenet]", "needs = empty"),
    ("from: laptop", "from: null", "needs = empty"),
    ("from: laptop\n", "\n", "needs = empty"),
    ("id: C1\n", "id: one\n", "id = one"),
    ("claims:", "clams:", "it must be a mapping of exactly paper and claims"),
    ("key: k,", "key: k: ,", "paper.yaml is not YAML at line"),
    ("venue: V, ", "", "paper, venue is missing"),
    ("https://example.org/k", "arXiv:1906.06110", "paper, url = arXiv:1906.06110 is not possible.*https://"),
])
def test_each_mistake_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(SettingsError, match=message) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert "paper.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("margin", [-3, 0, 0.05, 12.5])
def test_maps_take_any_finite_margin(tmp_path, margin):
    text = GOOD.replace("difference", "map").replace("margin: 0.02, null_value: 0",
                                                     f"margin: {margin}, null_value: {min(margin, 0)}")
    assert read(tmp_path, text)["C1"].parts[0].margin == margin
    with pytest.raises(SettingsError, match="margin = inf"):
        read(tmp_path, GOOD.replace("difference", "map").replace("margin: 0.02", "margin: .inf"))
    within = text.replace("side: above", "side: within").replace(", null_value: 0", "")
    if margin > 0:
        assert read(tmp_path, within)["C1"].parts[0].side == "within"
    else:
        with pytest.raises(SettingsError, match="greater than 0"):
            read(tmp_path, within)


def test_a_profile_judges_by_the_wording_that_was_frozen_for_it(tmp_path):
    head, one = GOOD.split("  - id: C1\n")
    now = f"{head}  - &now\n    id: C1\n{one}"
    was = "  - <<: *now\n    from: smoke\n    until: {until}\n    statement: {statement}\n"
    path = tmp_path / "paper.yaml"
    path.write_text(now + was.format(until="laptop", statement="As it was"))
    found = {profile: claims.load(path, profile)["C1"].statement for profile in (*LADDER, "imagenet", "")}
    assert found == {**dict.fromkeys(("test", "smoke", "laptop"), "As it was"),
                     **dict.fromkeys(("gpu", "paper", "imagenet", ""), "S")}
    gone = was.format(until="smoke", statement="As it was").replace("    from", "    id: C2\n    from")
    path.write_text(now + gone)
    assert [[c.id for c in claims.load(path, profile)] for profile in ("smoke", "laptop")] == [["C1", "C2"], ["C1"]]
    assert digest(claims.load(path, "smoke")["C2"]) == digest(replace(claims.load(path, "smoke")["C2"], until=""))
    path.write_text(now + was.format(until="imagenet", statement="As it was"))
    with pytest.raises(SettingsError, match="until 'imagenet'"):
        claims.load(path)


@pytest.mark.parametrize("paper", [path.stem for path in sorted(sheet.FOLDER.glob("*.yaml"))])
def test_an_older_wording_is_the_one_that_was_frozen(paper):
    for profile in LADDER:
        frozen = load_frozen(profile) and load_frozen(profile).paper(paper)
        for claim in claims.load(paper, profile):
            if claim.until == profile:
                assert not frozen.changed(claim.id, digest(claim)), f"{claim.id} at {profile}"
                assert claim.expected_at(profile) == frozen.expected()[claim.id]


def test_unknown_papers_and_doubled_ids(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'stitching'"):
        claims.load("stiching")
    with pytest.raises(SettingsError, match="claim ids = C1 "):
        read(tmp_path, GOOD + GOOD.split("claims:\n")[1])


def test_the_stitching_claims():
    paper = claims.load("stitching")
    assert [c.id for c in paper] == ["C1a", "C1b", "C1c", "C1d", "C1e", "C1f", "C2a", "C2b", "C3a", "C3b", "C3c", "C4a",
                                     "C4b", "C5a", "C5b", "C6a", "C6b", "C7a", "C7b", "C7c"]
    for c in paper:
        assert judge(c, {}, "test").verdict == "not tested"
        assert "paper" in c.scope
        why = "No measurement" if "laptop" in c.scope else "Not at profile laptop: "
        assert judge(c, {}, "laptop").reason.startswith(why)
    probe = replace(paper["C6a"], id="C9")
    equal = {p.id: {"R->N minus R->U": data(0.0)} for p in probe.parts}
    assert judge(probe, equal, "laptop").verdict == "supported" and not math.isnan(judge(probe, equal, "laptop").p)
