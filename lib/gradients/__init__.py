"""Gradients with respect to the image: of networks, of log-densities (scores), and targets that they align with."""
