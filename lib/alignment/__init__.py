"""Perceptually aligned gradients (Ganz et al., ICML 2023): how far a classifier's gradients align with given targets
(`measures`), images made by following them (`generation`), and the toy in the plane, where what an attack can do is
known (`toy`).
"""
