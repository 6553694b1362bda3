"""A subject: any network that is looked at through the lenses, as a frozen copy that maps pixels to logits.

Images are [B, C, H, W] with pixels in [0, 1], of the shape and the classes of the subject's data.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import impossible, need
from lib.lenses.graph import Traced, Untraceable, traced
from lib.models.staged import Normalise, device_of
from lib.modes import copied
from lib.runtime import generator, initialise_with
from lib.values.data import Data

if TYPE_CHECKING:
    from lib.training.zoo import Zoo
    from lib.values.recipe import Recipe

INSIDE = "inside"
NORMALISERS = {  # usual (mean, std) of pixels in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar10, deviations of single images": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "half": ((0.5,), (0.5,)),  # to [-1, 1]
    "quarter": ((0.5,), (0.25,)),  # as this project's networks
    "none": ((0.0,), (1.0,)),
}
SAMPLE = 4  # random images on which a network is tried
ALIKE = 1e-4  # of the largest logit: two passes of the same images differ by less
ALONE = 1e-3  # of the largest logit: an image in another batch gives other logits by less
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

Numbers = Sequence[float] | float


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to look at. `wrap`, `load` (lib/lenses/sources.py) and `of_recipe` make subjects.

    name: as tables and figures call it. key: a digest of weights, code and normaliser, by which stored results are
    found. net: maps images to logits [B, classes]; in eval mode, float32, frozen. data: the data whose images and
    classes it has. layers: the names of the nodes of its graph through which everything passes, in order; () if it
    cannot be traced. note: "" or sentences: where tracing stopped, and what of a twin was not drawn anew.
    """

    name: str
    key: str
    net: nn.Module
    data: Data
    note: str = ""
    graph: Traced | None = field(default=None, repr=False)
    inner: nn.Module | None = field(default=None, repr=False)  # what the caller gave, copied: `net` without normaliser
    normalise: Normalise | None = field(default=None, repr=False)  # None: inside `inner`
    leaves: tuple[type[nn.Module], ...] = ()

    @classmethod
    @in_own_state
    def wrap(cls, net: nn.Module, *, data: Data, normaliser: str | tuple[Numbers, Numbers] | Normalise | None = None,
             name: str = "yours", leaves: Sequence[type[nn.Module]] = (),
             device: torch.device | str | None = None) -> Subject:
        """A subject from a copy of `net`, in float32 on `device` (None: its own); `net` does not change.

        data: the data set whose images the network takes and whose classes, in this order, it names. normaliser: what
        the network expects of pixels: (mean, std), each one number or one for each channel, in units of pixels in
        [0, 1]; one of the names in NORMALISERS; or "inside" if the network takes pixels in [0, 1]. There is no default,
        since forgetting the normaliser is the commonest error. leaves: classes of modules that tracing does not look
        into.

        A network that cannot be traced has no layers, and `note` says why. Raises SettingsError, one sentence, for a
        network that does not map images of the data to finite logits of its classes, each image by itself, the same
        twice, without changing the images.
        """
        need(isinstance(net, nn.Module), "net", type(net).__name__, "a torch.nn.Module; weights alone need the source "
             "of their network")
        need(isinstance(data, Data), "data", repr(data), "a Data, such as Data('cifar10')")
        need(normaliser is not None, "normaliser", None, f'given: (mean, std) of pixels in [0, 1], one of '
             f'{", ".join(NORMALISERS)}, or "{INSIDE}" for a network that takes pixels in [0, 1]')
        normalise = normaliser_of(normaliser, data.shape[0])
        inner = _copy(net).to(device)
        device = device_of(inner)
        normalise = None if normalise is None else normalise.to(device)
        whole = _whole(inner, normalise)
        images = _sample(data, device)
        _check(whole, images, data)
        graph, note = None, ""
        try:
            graph = traced(copied(inner), normalise, images, leaves)
        except Untraceable as error:
            note = (f"its graph cannot be traced ({error}), so it is looked at without the lenses that cut it or read "
                    "its layers")
        return cls(name, _key(inner, normalise, graph, data), whole, data, note, graph, inner, normalise, tuple(leaves))

    @classmethod
    def of_recipe(cls, zoo: Zoo, recipe: Recipe, name: str) -> Subject:
        """The network of a recipe, trained if the store lacks it, as a subject with the recipe's data."""
        return cls.wrap(zoo.obtain(recipe).net, data=recipe.data, normaliser=INSIDE, name=name)

    @property
    def layers(self) -> tuple[str, ...]:
        return () if self.graph is None else tuple(self.graph.shapes)

    def shape(self, layer: str) -> tuple[int, ...]:
        """The shape of a layer's tensor for one image, such as (1, C, H, W). Raises SettingsError as `cut` does."""
        graph = self._traced()
        graph.check([layer])
        return graph.shapes[layer]

    def cut(self, layer: str) -> tuple[nn.Module, nn.Module]:
        """The front, from images to the tensor of the layer, and the end, from there to logits. Neither changes what it
        is given; end(front(images)) are the network's logits. Raises SettingsError for an unknown layer and for a
        network that cannot be traced.
        """
        return self._traced().cut(layer)

    @in_own_state
    @torch.no_grad()
    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The tensors of some layers in one pass of the images. Raises SettingsError as `cut` does."""
        return dict(zip(layers, self._traced().tap(layers)(images), strict=True))

    @functools.cached_property
    def flops(self) -> dict[str, float]:
        """layer -> the share of the operations of a forward pass that are done up to it, in [0, 1]."""
        return {} if self.graph is None else self.graph.flops(_sample(self.data, device_of(self.net))[:1])

    @functools.cached_property
    def twin(self) -> Subject:
        """The same network before any training: all weights are drawn anew, by the modules' own `reset_parameters`,
        with a seed from the subject's key. Entries of weights that no module draws are permuted, and `note` says which.
        Buffers stay, so the twin of a pruned network keeps the mask that training chose.
        """
        other = copied(self.inner)
        permuted = _draw_anew(other, self.key)
        found = Subject.wrap(other, data=self.data, normaliser=self.normalise or INSIDE, name=f"{self.name}, untrained",
                             leaves=self.leaves)
        if not permuted:
            return found
        shown = ", ".join(permuted[:3]) + (f" and {len(permuted) - 3} more" if len(permuted) > 3 else "")
        note = f"no module draws {shown} anew, so their entries are permuted"
        return replace(found, note="; ".join(filter(None, (found.note, note))))

    def _traced(self) -> Traced:
        need(self.graph is not None, "layer", "given", f"left out for {self.name}: {self.note}")
        return self.graph


def normaliser_of(given: str | tuple[Numbers, Numbers] | Normalise, channels: int) -> Normalise | None:
    """The normaliser that `Subject.wrap` describes, None for "inside". Raises SettingsError for anything else."""
    if isinstance(given, str):
        if given == INSIDE:
            return None
        need(given in NORMALISERS, "normaliser", given, f'"{INSIDE}", (mean, std) or one of {", ".join(NORMALISERS)}')
        given = NORMALISERS[given]
    if isinstance(given, Normalise):
        given = given.mean.flatten(), given.std.flatten()
    allowed = (f'"{INSIDE}" or (mean, std), each 1 or {channels} finite numbers, with mean from -1 to 1 and std above '
               f"0: the data's images have {channels} channel{'s' * (channels > 1)}")
    try:
        mean, std = (torch.as_tensor(numbers, dtype=torch.float32).flatten() for numbers in given)
        fits = all(len(numbers) in (1, channels) and numbers.isfinite().all() for numbers in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        fits = False
    need(fits and bool((std > 0).all()) and bool((mean.abs() <= 1).all()), "normaliser", given, allowed)
    return Normalise(channels, mean, std)


# ----------------------------------------------------------------------------------------------------------- checks


def _copy(net: nn.Module) -> nn.Module:
    """A frozen copy in eval mode and float32, without what spreads or compiles it."""
    while isinstance(net, WRAPPERS) or hasattr(net, "_orig_mod"):
        net = net.module if isinstance(net, WRAPPERS) else net._orig_mod
    try:
        return copied(net).float().eval().requires_grad_(False)
    except Exception as error:  # deepcopy asks the modules' own code
        raise impossible("net", type(net).__name__, f"a network that can be copied ({_reason(error)})") from None


def _whole(inner: nn.Module, normalise: Normalise | None) -> nn.Module:
    if normalise is None:
        return inner
    return nn.Sequential(OrderedDict(normalise=normalise, net=inner)).eval()


def _sample(data: Data, device: torch.device) -> Tensor:
    return torch.rand(SAMPLE, *data.shape, generator=generator("subject", *data.shape)).to(device)


@torch.no_grad()
def _check(net: nn.Module, images: Tensor, data: Data) -> None:
    """Raise SettingsError unless `net` is what `Subject.wrap` says, as far as a few random images show."""
    name, shape, classes = "net", list(data.shape), data.info.classes
    own = type(net.net if isinstance(net, nn.Sequential) and hasattr(net, "net") else net).__name__
    given = images.clone()
    try:
        logits = net(given)
    except Exception as error:  # it is somebody else's code
        gpu = "cuda" in str(error).lower() or "nvidia" in str(error).lower()
        allowed = (f"a network that runs where its weights are, on {images.device.type}, and moves nothing to a GPU"
                   if gpu else f"a network that takes images {shape} of {data.name}")
        raise impossible(name, own, f"{allowed} ({_reason(error)})") from None
    tensor = torch.is_tensor(logits)
    found = list(logits.shape) if tensor else type(logits).__name__
    need(tensor and logits.dim() == 2 and len(logits) == len(images), "output of net", found,
         f"logits [{len(images)}, {classes}], one row for each image")
    need(logits.shape[1] == classes, "number of classes", logits.shape[1], f"{classes}, the classes of {data.name}")
    need(torch.equal(given, images), name, own, "a network that leaves its images as they are: let it begin with "
         "a copy, images.clone()")
    need(bool(logits.isfinite().all()), "output of net", "NaN or infinite", "finite logits for random images in [0, 1]")
    largest = float(logits.abs().max())
    again = float((net(images.clone()) - logits).abs().max())
    need(again <= ALIKE * largest, name, own, f"a network that gives the same logits for the same images in eval mode "
         f"(two passes differ by {again:.2g}, the largest logit is {largest:.2g})")
    alone = float((net(images[:1].clone()) - logits[:1]).abs().max())
    need(alone <= ALONE * largest, name, own, f"a network that treats each image by itself in eval mode (an image "
         f"alone and among others gives logits that differ by {alone:.2g}, the largest is {largest:.2g})")


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


# -------------------------------------------------------------------------------------------------- keys and twins


def _key(inner: nn.Module, normalise: Normalise | None, graph: Traced | None, data: Data) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the weights, the code, the normaliser and the data's name."""
    found = hashlib.sha256()
    found.update(repr((data.name, data.shape, graph.whole.code if graph else _sources(inner))).encode())
    for net in (inner, normalise):
        for name, tensor in ({} if net is None else net.state_dict()).items():
            tensor = tensor.detach().cpu().contiguous()
            found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _sources(net: nn.Module) -> list[str]:
    """The modules of a network that cannot be traced, and the code of their classes where it can be read."""
    found = [repr(net)]
    for kind in sorted({type(module) for module in net.modules()}, key=lambda kind: f"{kind.__module__} {kind}"):
        with contextlib.suppress(OSError, TypeError):
            found.append(inspect.getsource(kind))
    return found


@torch.no_grad()
def _draw_anew(net: nn.Module, key: str) -> list[str]:
    """Draw all parameters anew; returns the names of those whose entries were only permuted."""
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    with initialise_with("twin", key):
        for module in net.modules():
            draw = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(draw):
                with contextlib.suppress(Exception):  # somebody else's code; what it leaves is permuted below
                    draw()
    permuted = []
    for name, parameter in net.named_parameters():
        flat = parameter.flatten()
        if torch.equal(parameter, before[name]) and bool((flat != flat[:1]).any()):
            order = torch.randperm(len(flat), generator=generator("twin", key, name)).to(flat.device)
            parameter.copy_(flat[order].view_as(parameter))
            permuted.append(name)
    return permuted
