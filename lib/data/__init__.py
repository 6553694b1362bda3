"""Images: official data sets as uint8 tensors with fixed, class-balanced subsets, and batched augmentation."""

from lib.data.augment import Placement, augment
from lib.data.images import DataError, ImageSet, load

__all__ = ["DataError", "ImageSet", "Placement", "augment", "load"]
