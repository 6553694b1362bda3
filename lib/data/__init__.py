"""Images: official data sets, digits next to a letter and points from closed forms, as tensors with fixed,
class-balanced subsets, and batched augmentation.
"""

from lib.data.augment import Placement, augment
from lib.data.images import DataError, ImageSet, absent, load

__all__ = ["DataError", "ImageSet", "Placement", "absent", "augment", "load"]
