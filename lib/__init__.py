"""The library behind the notebooks: one house of six floors.

`FLOORS` says which room (a module or a package of lib) is on which floor, lowest first. A file imports only from floors
below its own and, except on the second floor, from rooms that stand left of its own. tests/house/test_house.py checks
it. The first floor, profiles and plans import no torch: a run is planned, checked and refused without it.
"""

FLOORS = (
    ("values", "errors runtime files modes door store statistics values cards profiles".split()),
    ("material", "data attacks models representations".split()),
    ("training", "certify gradients training".split()),
    ("measures", "results claims plots stitching similarity alignment manifold pruning lenses".split()),
    ("papers", ["papers"]),
    ("what a person touches",
     "jobs prices dry_run parameters site study look lab gpus slurm batch rehearsal new_paper cli __main__".split()),
)
APART = "material"  # the floor whose rooms do not know each other
