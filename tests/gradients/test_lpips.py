"""LPIPS: left out without the weights, sane with any, refusals."""

import hashlib

import pytest
import torch

from lib.data import load
from lib.errors import SettingsError
from lib.gradients import lpips as module
from lib.gradients.inputs import alignment
from lib.gradients.lpips import lpips, why_no_lpips
from lib.runtime import generator
from lib.values.data import Data


def drawn(*shape, name="test"):
    return torch.randn(*shape, generator=generator(name))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's, where the weights would lie."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / module.ALEXNET[0]


def test_lpips_is_refused_without_the_weights(hub, caplog, monkeypatch):
    def download(*args, **options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    x = drawn(4, 3, 32, 32)
    assert lpips(x, x) is None
    assert "AlexNet's weights are not here" in why_no_lpips() and str(hub.parent) in caplog.text
    caplog.clear()
    table = alignment(x, x, x, torch.tensor([1, 2, 3, 0]), drawn(1, 4, 3072))
    assert "lpips" not in table and caplog.text.count("LPIPS is left out") == 1
    hub.write_bytes(b"half a file")
    assert lpips(x, x) is None and "does not begin with 7be5be79" in why_no_lpips()


def test_lpips_with_weights(hub, monkeypatch):
    """With random ones, in a file as torchvision's: numbers of a sane kind, not of a known size."""
    draw, weights = generator("alexnet"), {}
    convolutions = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
    for k, out, into, kernel in convolutions:
        weights[f"features.{k}.weight"] = torch.randn(out, into, kernel, kernel, generator=draw) / into**0.5 / kernel
        weights[f"features.{k}.bias"] = torch.zeros(out)
    for k, out, into in ((1, 4096, 9216), (4, 4096, 4096), (6, 1000, 4096)):  # of no use here: nothing on the disk
        weights[f"classifier.{k}.weight"] = torch.zeros(1).expand(out, into)
        weights[f"classifier.{k}.bias"] = torch.zeros(1).expand(out)
    torch.save(weights, hub)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "ALEXNET", (hub.name, digest[:8]))
    state = torch.get_rng_state()
    x, noise = load(Data("digits", test=10), "test").pixels() - 0.5, drawn(10, 1, 8, 8, name="noise")
    assert why_no_lpips() == "" and torch.equal(lpips(x, x), torch.ones(10))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(lpips(x, 7 * x), torch.ones(10))  # only the picture counts, not its strength
    near, far, opposite = (lpips(x, other, batch=4) for other in (x + 0.05 * noise, noise, -x))
    assert (far < near).all() and (near < 1).all() and (opposite < near).all() and far.isfinite().all()
    large = drawn(3, 3, 32, 32)
    kept, enlarged = lpips(large, large.flip(0)), lpips(large, large.flip(0), side=64)
    assert kept.shape == (3,) and not torch.allclose(kept, enlarged, atol=1e-3)
    assert lpips(drawn(2, 1, 56, 28), drawn(2, 1, 56, 28, name="b")).isfinite().all()
    table = alignment(x, x, x, torch.arange(10).roll(1), noise[None])
    assert table.groupby("what")["lpips"].mean().idxmax() == "gradient"


@pytest.mark.parametrize("call, words", [
    (lambda x: lpips(x, x[:2]), "shape of the gradients"), (lambda x: lpips(x, x, side=30), "side = 30.*at least 31"),
    (lambda x: lpips(x.expand(-1, 2, -1, -1), x.expand(-1, 2, -1, -1)), "channels = 2"),
])
def test_what_is_impossible_is_refused_in_a_sentence(call, words):
    with pytest.raises(SettingsError, match=words):
        call(drawn(3, 1, 4, 4))
