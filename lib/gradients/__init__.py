"""Gradients of networks and of log-densities with respect to the image: scores, and the targets that gradients align
with."""
