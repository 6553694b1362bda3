"""Stitching: what stands next to accuracy: relative accuracy, agreement, likeness at the joint."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.errors import SettingsError
from lib.runtime import generator
from lib.stitching import measures
from lib.stitching.measures import AtJoint
from lib.values.data import Data
from tests.papers.stitching.world import BASE, DIGITS, JOINT, SELF, N, R


def test_relative_accuracy_by_hand():
    assert measures.relative_accuracy(0.6, 0.8, 0.75) == pytest.approx(
        {"of front": 0.75, "of end": 0.8, "of weaker": 0.8})
    got = measures.relative_accuracy(0.3, 0.6, 0.0)
    assert got["of front"] == 0.5 and np.isnan(got["of end"]) and np.isnan(got["of weaker"])
    for ends in ((0.5, np.nan), (np.nan, 0.5)):
        assert np.isnan(measures.relative_accuracy(0.3, *ends)["of weaker"])


def test_agreement_by_hand():
    assert measures.agreement([1, 2, 3, 4], torch.tensor([1, 2, 0, 0])) == 0.5
    for one, other in (([1, 2], [1]), ([], [])):
        with pytest.raises(SettingsError, match="classes = of shape"):
            measures.agreement(one, other)


def test_predictions_are_those_that_outcomes_judge(zoo):
    right = zoo.outcomes(N).table
    table = measures.predictions(zoo, N)
    assert list(table["index"]) == list(right["index"]) and list(table["label"]) == list(right["label"])
    assert list(table["predicted"] == table["label"]) == list(right["clean"])
    assert 0.3 < right["clean"].mean() < 1, "there are both kinds"


def test_what_is_looked_at_is_what_the_end_goes_on_with(zoo, monkeypatch):
    monkeypatch.setattr(measures, "BATCH", 7)
    pixels, net, end = zoo.images(DIGITS, "test").pixels(slice(0, 20)), zoo.obtain(JOINT).net, zoo.obtain(R).net
    at = measures.at_joint(net, end, "layer1.0", pixels)
    torch.testing.assert_close(net.back(at.joined), net(pixels), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.joint(at.front), at.joined, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end.back("layer1.0")(at.end), end(pixels), rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingsError, match="unknown joint 'layer1'"):
        measures.at_joint(net, end, "layer1", pixels)


def maps(*shape, key=""):
    return torch.randn(*shape, generator=generator("maps", key))


def test_likeness_by_hand():
    front, end = maps(60, 3, 4, 4, key="front"), maps(60, 5, 4, 4, key="end") + 2
    got = measures.likeness(AtJoint(front, end / 2, end))
    spread = (end - end.mean((0, 2, 3), keepdim=True)).square().sum()
    assert got["cka"] == pytest.approx(1), "no scale matters"
    assert got["unexplained"] == pytest.approx(float((end / 2).square().sum() / spread), rel=1e-5)
    assert abs(got["cka before"]) < 0.15 and abs(got["cka shuffled"]) < 0.15, "unrelated"
    means = end.mean((0, 2, 3), keepdim=True).expand_as(end)
    got = measures.likeness(AtJoint(end, means, end))
    assert got["unexplained"] == pytest.approx(1) and np.isnan(got["cka"]) and got["cka before"] == pytest.approx(1)
    assert np.isnan(measures.likeness(AtJoint(front, end, torch.ones_like(end)))["unexplained"])


def test_likeness_of_each_image_by_hand():
    end = maps(6, 5, 4, 4, key="end")
    centre = end.mean(0)
    joined = end.clone()
    joined[1], joined[2] = 2 * centre - end[1], maps(5, 4, 4, key="else")
    got = measures.each_image(AtJoint(end, end, end))
    np.testing.assert_allclose(got, 1.0)
    got = measures.each_image(AtJoint(end, joined + 7, end))
    assert got["cosine"][1] < -0.5 and abs(got["cosine"][2]) < 0.5 < got["cosine"][3]
    np.testing.assert_allclose(got["cka"][[0, 3, 4, 5]], 1.0)
    assert got["cka"][2] < 0.8
    small = measures.each_image(AtJoint(end, end[:, :, :1, :3], end[:, :, :1, :3]))
    assert small["cka"].isna().all(), "three positions say nothing"
    np.testing.assert_allclose(small["cosine"], 1.0)
    assert measures.each_image(AtJoint(end, torch.ones_like(end), end)).isna().to_numpy().all()


def test_a_network_stitched_to_itself_is_like_itself(zoo):
    got = measures.joint_likeness(zoo, SELF, 40)
    assert got["cka"] == got["cka before"] == pytest.approx(1) and got["unexplained"] == 0
    assert abs(got["cka shuffled"]) < 0.5


def test_likeness_comes_from_the_store(zoo, monkeypatch):
    first = measures.joint_likeness(zoo, JOINT, 40)
    assert set(first) == set(measures.LIKENESS) and 0 < first["cka"] < 1 and first["unexplained"] > 0
    more = measures.joint_likeness(zoo, JOINT, 60)
    assert more["cka"] != first["cka"]
    monkeypatch.setattr(measures, "at_joint", None)
    assert measures.joint_likeness(zoo, JOINT, 40) == first


def test_likeness_of_what_cannot_be_compared_is_refused(zoo):
    with pytest.raises(SettingsError, match="arch = ResNet.* a stitched network"):
        measures.joint_likeness(zoo, N)
    wide = replace(JOINT, parents=(N, replace(BASE, data=Data("mnist"))))
    assert not measures.comparable(wide) and measures.comparable(JOINT)
    with pytest.raises(SettingsError, match="data of the end = mnist"):
        measures.joint_likeness(zoo, wide)
