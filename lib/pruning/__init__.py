"""What pruning has left of a network, and the network that is left.

Masks and how they are found stand in lib/models/masked.py, rules for the layers' shares in lib/models/rates.py, the
searches in lib/training/losses/pruning.py.
"""

from lib.models.masked import dense
from lib.pruning.shrink import shrunk
from lib.pruning.tables import kept

__all__ = ["dense", "kept", "shrunk"]
