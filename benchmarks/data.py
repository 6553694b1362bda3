"""An epoch of augmented batches: uint8 images cropped and flipped on their device, against torchvision's transforms in
a DataLoader. The images are made up, in CIFAR-10's shape.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.timing import Run, compared, race
from benchmarks.training import made_up
from lib.data import ImageSet, augment
from lib.runtime import generator

BATCH = 128
WORKERS = (0, 2)


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds an epoch: 10,000 images in shuffled batches of 128, as floats on the device."""
    images = made_up(512 if run.quick else 10_000, run.device)
    ours = {"lib": lambda: lib_epoch(images)}
    others = {f"torchvision {torchvision.__version__}, DataLoader with {n} workers": loader_epoch(images, run, n)
              for n in WORKERS}
    results, seconds = race(ours | others, run, run.rounds())

    def note(mine, peer):
        rates = [len(images) / statistics.median(seconds[who]) for who in (mine, peer)]
        return (f"{rates[0]:,.0f} and {rates[1]:,.0f} images/s; mean pixel {results[mine]:.3f} and "
                f"{results[peer]:.3f}; {run.place()}")

    yield from compared(f"data: crop and flip, {len(images):,} images", list(ours), seconds, note)


def lib_epoch(images: ImageSet) -> float:
    """Every batch of an epoch as lib's training loop makes it; returns the mean pixel."""
    where, sums = images.images.device, []
    for i, chosen in enumerate(torch.randperm(len(images), generator=generator("order")).to(where).split(BATCH)):
        pixels, _ = augment(images.pixels(chosen), "crop-flip", generator("step", i, device=where))
        sums.append(pixels.contiguous(memory_format=torch.channels_last).sum())
    return float(torch.stack(sums).sum()) / images.images.numel()


class Pictures(Dataset):
    """Images one by one through torchvision's transforms, as `torchvision.datasets.CIFAR10` gives them."""

    def __init__(self, images: ImageSet):
        self.images = images.images.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def loader_epoch(images: ImageSet, run: Run, workers: int):
    """The same by a DataLoader with so many workers, kept between epochs, as a contender; returns the mean pixel."""
    loader = DataLoader(Pictures(images), BATCH, shuffle=True, num_workers=workers, pin_memory=run.gpu,
                        persistent_workers=workers > 0)

    def epoch() -> float:
        sums = [pixels.to(run.device, non_blocking=True).sum() for pixels, _ in loader]
        return float(torch.stack(sums).sum()) / images.images.numel()

    return epoch
