"""What the masks of a pruned network keep, and the smaller network that they describe.

Masks are in lib/models/masked.py, ways to find them in lib/models/prune.py, rules for the shares of layers in
lib/models/rates.py, and searches in lib/training/losses/pruning.py.
"""

from lib.models.masked import dense
from lib.pruning.shrink import shrunk
from lib.pruning.tables import kept

__all__ = ["dense", "kept", "shrunk"]
