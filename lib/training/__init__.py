"""Training: one loop, the losses of objectives, and the zoo that turns a recipe into a network."""
