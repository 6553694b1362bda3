"""Attacks: the geometry of a threat, the training attack, and the search that an evaluation is made of.

`threat` (balls, starts, steps), `pgd` (losses and the training attack), `search` (break_images: one call for PGD, APGD
and AutoAttack), `pool` (the images under attack), `auto` (the attacks of the AutoAttack authors' package).
"""
