"""The directions with which input gradients are aligned: the ground-truth gradients g(x, t) of Ganz et al. (2023).

Images are [B, C, H, W] with pixels in [0, 1], not augmented; targets are in the same frame. They are not normalised,
since the objective uses only their directions. `lib.values.objectives.Targets` describes all kinds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.errors import need
from lib.gradients.scores import class_score
from lib.runtime import ProgressBar, derangement, generator
from lib.values.objectives import REPRESENTED, Targets

VERSION = 1  # of stored scores: to be raised when the same settings give other numbers
SCORES = "scores"  # the tensor's name in the file
_AT_ONCE = 2048  # images that are held in fp32 at once


@dataclass(frozen=True, eq=False)
class TrainingTargets:
    """The targets of one kind over the training images of a network.

    spec: the kind. images: the training images. classes: their number. bank: [classes, C, H, W], the representatives of
    the classes or random directions, which do not depend on the image; None for other kinds. neighbours: int64
    [N, classes], positions of each image's nearest neighbours among the images. scores: fp16 [N, classes, C, H, W], see
    `save_scores`, often a memory-mapped file. candidates: int64 [classes, n], positions of the images that may be
    neighbours. partners: int64 [N], the image whose targets each image gets, and others: int64 [classes], the class
    whose targets each class gets (None: their own). order: int64 [N], positions of the images by growing official
    index.
    """

    spec: Targets
    images: ImageSet
    classes: int
    bank: Tensor | None = None
    neighbours: Tensor | None = None
    scores: Tensor | None = None
    candidates: Tensor | None = None
    partners: Tensor | None = None
    others: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def of(cls, spec: Targets, images: ImageSet, classes: int, scores: Tensor | None = None) -> TrainingTargets:
        """The targets `spec` for these training images. Kind `score` needs `scores` [N, classes, C, H, W] in the order
        of the images. Random choices depend on the name of the data set, not on a network.

        Raises SettingsError if scores are missing, superfluous or of another shape, or a class has too few images.
        """
        need((scores is not None) == (spec.kind == "score"), "scores", "left out" if scores is None else "given",
             f"{'given' if spec.kind == 'score' else 'left out'} for targets of kind {spec.kind}")
        device, order = images.images.device, images.indices.argsort()
        found = {"order": order}
        if spec.kind == "score":
            whole = len(images), classes, *images.pixels(slice(0, 1)).shape[1:]
            need(tuple(scores.shape) == whole, "shape of scores", tuple(scores.shape), f"{whole}")
            found["scores"] = _near(scores, device)
        elif spec.kind == "nearest neighbour":
            found["candidates"] = _first_of_each(images, classes, spec.sample)
            found["neighbours"] = _nearest(images.pixels, len(images), images, found["candidates"], alike=True)
        elif spec.kind == "class mean":
            found["bank"] = _means(images, classes)
        elif spec.kind == "one image":
            picked = [_drawn_one(images, label) for label in range(classes)]
            found["bank"] = images.pixels(torch.tensor(picked, device=device))
        else:
            draw = generator("targets", "random direction", images.name)
            shape = classes, *images.pixels(slice(0, 1)).shape[1:]
            found["bank"] = torch.randn(shape, generator=draw).to(device)
        if spec.centred and "bank" in found:
            found["bank"] = found["bank"] - found["bank"].mean(0)
        if spec.permuted == "classes":
            found["others"] = _permutation(classes, "classes", images).to(device)
        if spec.permuted == "images":
            found["partners"] = torch.empty_like(order)  # drawn by index: the same whatever the images' order
            moved = _permutation(len(images), "images", images).to(device)
            found["partners"][order] = order[moved]
        return cls(spec, images, classes, **found)

    def at(self, images: Tensor, chosen: Tensor, indices: Tensor | None = None) -> Tensor:
        """g(x, t) for images [B, C, H, W] and the classes `chosen`, int64 [B, K]: float32 [B, K, C, H, W].

        indices: int64 [B], the official indices if the images are training images, so that none is its own neighbour
        and scores are looked up; None for other images, whose neighbours are sought among the training images.

        Raises SettingsError for indices that are not of training images, and without indices for scores
        (`lib.gradients.scores.class_score` computes them) and for targets permuted over images.
        """
        looked_up = self.scores is not None or self.partners is not None
        need(indices is not None or not looked_up, "indices", "left out",
             "given for targets that only training images have: scores, and targets permuted over images")
        if indices is None:
            return self._at(images, chosen, None)
        where = self._positions(indices)
        need(bool((self.images.indices[where] == indices).all()), "indices", "of other images", "of training images")
        return self._at(images, chosen, where)

    def of_training(self, indices: Tensor, chosen: Tensor) -> Tensor:
        """g(x, t), float32 [B, K, C, H, W], for the training images with these official indices, int64 [B], and the
        classes `chosen`, int64 [B, K]. Indices are not checked, since a check would make a GPU wait in every step.
        """
        where = self._positions(indices)
        return self._at(self.images.pixels(where), chosen, where)

    def _at(self, images: Tensor, chosen: Tensor, where: Tensor | None) -> Tensor:
        """`at`, where `where` [B] are the images' positions among the training images."""
        if self.partners is not None:
            where = self.partners[where]
            images = self.images.pixels(where)
        if self.others is not None:
            chosen = self.others[chosen]
        if self.scores is not None:
            rows = where.to(self.scores.device)[:, None], chosen.to(self.scores.device)
            return self.scores[rows].to(images.device).float() / self.spec.sigma**2
        if self.candidates is not None:
            return self._to_neighbours(images, chosen, where)
        ways = self.bank[chosen]
        moves = self.spec.kind in REPRESENTED and not self.spec.centred
        return ways - images[:, None] if moves else ways

    def _to_neighbours(self, images: Tensor, chosen: Tensor, where: Tensor | None) -> Tensor:
        found = self._neighbours_of(images) if where is None else self.neighbours[where]
        ways = self.images.pixels(found.gather(1, chosen))
        if not self.spec.centred:
            return ways - images[:, None]
        middle = sum(self.images.pixels(found[:, label]) for label in range(self.classes)) / self.classes
        return ways - middle[:, None]

    def _neighbours_of(self, images: Tensor) -> Tensor:
        return _nearest(lambda part: images[part], len(images), self.images, self.candidates, alike=False)

    def _positions(self, indices: Tensor) -> Tensor:
        """The positions of the images with these official indices among the training images, int64 [B]."""
        place = torch.searchsorted(self.images.indices[self.order], indices)
        return self.order[place.clamp(max=len(self.order) - 1)]


# ---------------------------------------------------------------------------------------------------------- heuristics


def _permutation(count: int, of: str, images: ImageSet) -> Tensor:
    """The class or image whose targets each one gets, int64 [count], never its own."""
    return derangement(count, "targets", of, images.name).argsort()  # the inverse of a derangement is one too


def _drawn_one(images: ImageSet, label: int) -> int:
    """The position of one image of the class, drawn with a seed from the data set's name and the class."""
    own = (images.labels.cpu() == label).nonzero().flatten()
    need(len(own) > 0, f"training images of class {label}", 0, "at least 1")
    own = own[images.indices.cpu()[own].argsort()]
    return int(own[torch.randint(len(own), (), generator=generator("targets", "one image", images.name, label))])


def _means(images: ImageSet, classes: int) -> Tensor:
    """The mean image of each class, [classes, C, H, W]."""
    sums = torch.zeros(classes, *images.pixels(slice(0, 1)).shape[1:], dtype=torch.float64, device=images.images.device)
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sums.index_add_(0, images.labels[part], images.pixels(part).double())
    counts = images.labels.bincount(minlength=classes)
    need(bool((counts > 0).all()), "training images of a class", 0, "at least 1")
    return (sums / counts.view(-1, 1, 1, 1)).float()


def _first_of_each(images: ImageSet, classes: int, sample: int | None) -> Tensor:
    """Positions of the first `sample` images of each class, int64 [classes, n]. None: of all images, where shorter rows
    repeat their last position, which changes no nearest neighbour.
    """
    own = [(images.labels == label).nonzero().flatten() for label in range(classes)]
    least = min(len(positions) for positions in own)
    need(least >= 2, "training images of a class", least, "at least 2, since none is its own neighbour")
    allowed = f"at most the {least} images of the smallest class"
    need(sample is None or sample <= least, "targets.sample", sample, allowed)
    most = sample or max(len(positions) for positions in own)
    return torch.stack([positions[torch.arange(most, device=positions.device).clamp(max=len(positions) - 1)]
                        for positions in own])


def _nearest(queries, count: int, images: ImageSet, candidates: Tensor, alike: bool) -> Tensor:
    """For each of `count` queries, the position of the nearest (l2) candidate of every class: int64 [count, classes].
    queries: a function from a slice to queries [n, C, H, W]. alike: whether the queries are the images themselves, so
    that none may be its own neighbour.
    """
    middle = images.pixels(slice(0, _AT_ONCE)).mean(0)  # subtracted so that squared distances lose fewer digits
    found = torch.empty(count, len(candidates), dtype=torch.int64, device=candidates.device)
    best = torch.full(found.shape, math.inf, device=candidates.device)
    for label, positions in enumerate(candidates):
        for some in positions.split(_AT_ONCE):
            bank = (images.pixels(some) - middle).flatten(1)
            for start in range(0, count, _AT_ONCE):
                part = slice(start, min(start + _AT_ONCE, count))
                x = (queries(part) - middle).flatten(1)
                apart = torch.addmm(bank.square().sum(1), x, bank.T, alpha=-2)  # without the query's square
                if alike:
                    own = torch.arange(part.start, part.stop, device=apart.device)
                    apart.masked_fill_(some == own[:, None], math.inf)
                least, which = apart.min(1)
                closer = least < best[part, label]
                best[part, label] = least.where(closer, best[part, label])
                found[part, label] = some[which].where(closer, found[part, label])
    return found


# -------------------------------------------------------------------------------------------------------------- scores


def save_scores(path: Path, net, images: ImageSet, sigma: float, draws: int) -> None:
    """Write sigma^2 times the `class_score` of a denoiser at all images, fp16 [N, classes, C, H, W]: the change of the
    denoised image when a class is given, which stays in the range of fp16 for every sigma. The file is in safetensors
    format and meant to be memory-mapped. It grows in parts, and the file of an interrupted run is continued.

    The noise of an image is drawn with a seed from its data set, split and official index; `draws` 0: no noise.
    """
    shape = len(images), net.classes, *images.pixels(slice(0, 1)).shape[1:]
    row = 2 * math.prod(shape[1:])
    told = {SCORES: {"dtype": "F16", "shape": shape, "data_offsets": [0, len(images) * row]}}
    head = json.dumps(told).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    if not path.exists() or path.stat().st_size < len(head):
        path.write_bytes(head)
    done = (path.stat().st_size - len(head)) // row
    with path.open("r+b") as file, ProgressBar(len(images) - done, "class scores of training images", "image") as bar:
        file.truncate(len(head) + done * row)
        file.seek(0, 2)
        for start in range(done, len(images), 64):
            part = images.take(slice(start, start + 64))
            noise = _noise(part, draws) if draws else None
            found = class_score(net, part.pixels(), sigma, noise, batch=16 * (net.classes + 1)) * sigma**2
            file.write(found.half().cpu().contiguous().numpy().tobytes())
            bar.step(len(part))


def _noise(images: ImageSet, draws: int) -> Tensor:
    """Standard normal draws [R, B, D], drawn separately for each image."""
    pixels = images.pixels(slice(0, 1)).numel()
    rows = [torch.randn(draws, pixels, generator=generator("targets", "noise", images.name, images.split, index))
            for index in images.indices.tolist()]
    return torch.stack(rows, 1).to(images.images.device)


def _near(scores: Tensor, device: torch.device) -> Tensor:
    """Scores on the GPU if they take at most half of its free memory; otherwise as they are, mapped or on the CPU."""
    if device.type != "cuda" or 2 * scores.nbytes > torch.cuda.mem_get_info(device)[0]:
        return scores
    return scores.to(device)
