"""Attacks: the geometry of a threat, the training attack, and the search that an evaluation is made of.

`threat` (balls, starts, steps), `perceptual` (JPEG, Gabor and snow: scenes instead of pixels), `pgd` (losses and the
training attack), `search` (break_images: one call for every attack), `sweep` (growing budgets), `pool` (the images
under attack, the stages of an attack), `notes` (what was found, on disk), `auto` (APGD, AutoAttack), `fab`, `square`.
"""
