"""Perceptually aligned gradients (Ganz et al., ICML 2023): how well a classifier's gradients align with given targets
(`measures`), images made by following the gradients (`generation`), and exact robustness in the plane (`plane`).
"""
