"""Losses compute objectives: their base class, and one file for each family. `loss_for(recipe.objective)` gives the
object that the loop calls.

A loss derives from `Loss`, or from `Wrapper` if it wraps another loss, and registers itself for the exact type of its
objective with `@losses.register(TRADES)`. It is called with `(net, batch, progress)`, a network, a `TrainingBatch` and
the `Progress` of the training, and returns `(loss, logits)`. `Loss` lists the other hooks and when they are called.
"""

import importlib
import pkgutil

from lib.training.losses.base import Loss, Progress, TrainingBatch, Wrapper, loss_for, losses

__all__ = ["Loss", "Progress", "TrainingBatch", "Wrapper", "loss_for", "losses"]

for _module in pkgutil.iter_modules(__path__):  # so that every loss of the room is registered
    importlib.import_module(f"{__name__}.{_module.name}")
