"""Training: one loop, objectives as objects, and the zoo that turns a recipe into a network."""
