"""Certificates: proofs about a network's answers within a ball of images, whatever the attack.

A proof registers itself for the exact type of its certificate with `@proofs.register(Bounds)` (lib/certify/proof.py).
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):  # so that every proof of the room is registered
    importlib.import_module(f"{__name__}.{_module.name}")
