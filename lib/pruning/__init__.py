"""What the masks of a pruned network keep, and the smaller network that they describe.

Masks and ways to find them are in lib/models/masked.py, rules for the shares of layers in lib/models/rates.py, and
searches in lib/training/losses/pruning.py.
"""

from lib.models.masked import dense
from lib.pruning.shrink import shrunk
from lib.pruning.tables import kept

__all__ = ["dense", "kept", "shrunk"]
