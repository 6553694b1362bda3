"""Training: one loop, the losses of objectives, evaluation, and the zoo that turns a recipe into a network."""
