"""Gradients with respect to the image: of networks and of log-densities (scores), and targets to align them with."""
