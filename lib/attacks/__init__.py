"""Attacks: the geometry of a threat, the training attack, and the search that an evaluation runs.

`geometry` (balls, starts, steps), `perceptual` (JPEG, Gabor and snow: scenes instead of pixels), `core` (the ascent of
every PGD), `pgd` (losses and the training attack), `search` (break_images: one call for every attack), `sweep` (growing
budgets), `pool` (the images under attack, the stages of an attack), `notes` (verdicts so far, on disk), `auto` (APGD,
AutoAttack), `fab`, `square`.

A search registers itself for the exact type of its attack with `@stages.register(PGD)`, see lib/attacks/pool.py.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):  # so that every search of the room is registered
    importlib.import_module(f"{__name__}.{_module.name}")
