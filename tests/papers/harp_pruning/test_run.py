"""HARP: a small study that is trained and measured."""

from lib.papers import settings
from lib.papers.harp_pruning import tables
from lib.papers.harp_pruning.results import measure
from tests.kit.profiles import given
from tests.kit.zoos import tiny_zoo
from tests.papers.harp_pruning.world import S, cells


def test_measure_trains_prunes_counts_and_replays(tmp_path):
    s = settings.load("test", {f"{S}.methods": ["HARP", "LWM"], f"{S}.milder_methods": [], f"{S}.keeps": [.2],
                               f"{S}.losses": ["PGD-AT"], f"{S}.channels": [], f"{S}.finetune.epochs": 3})
    planned, zoo = cells(s), tiny_zoo(tmp_path, s, S)
    f = measure(zoo, planned, *given(s, S))
    by_method = {c.condition.method: c for c in f.cells}
    assert set(by_method) == {"N", "pre-trained", "dense", "HARP", "LWM"}
    assert set(f.outcomes[by_method["N"]]) == {"search"} and set(f.outcomes[by_method["LWM"]]) == {"verify"}
    assert {c.condition.method for c in f.layers} == {"HARP", "LWM"}
    assert {c.condition.method for c in f.logs} == {"HARP"}
    left, every = f.weights(by_method["LWM"])
    assert every == sum(tensor.numel() for tensor in f.dense_weights[0].values())
    assert 0 <= left - .2 * every <= 5, "the floor rule: at most one weight a layer above"
    assert f.weights(by_method["HARP"])[0] <= 1.01 * .2 * every + 5
    again = tiny_zoo(tmp_path, s, S)
    assert measure(again, planned, *given(s, S)).table().equals(f.table()) and not again.trained_here
    kept = tables.choices(f)
    assert kept.groupby("method", sort=False).epoch.apply(list).to_dict() == {"dense": [1, 2, 3], "HARP": [1, 2, 3]}
    for method, rows in kept.groupby("method"):
        tuned = by_method[method]
        best, = rows[rows["on holdout"]].epoch
        whole = zoo.outcomes(tuned.recipe, s.networks.threat, s.sections[S].search)
        row, = rows[rows.epoch == best].itertuples()
        assert row.robust == whole.accuracy("robust"), "the kept weights of the chosen epoch are the network's"
        assert zoo.obtain(tuned.recipe).log[best - 1]["chosen"] and row.holdout == rows.holdout.max()
