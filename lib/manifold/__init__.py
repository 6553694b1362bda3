"""Off-manifold robustness (Srinivas et al., NeurIPS 2023): tangent spaces and sensitivity along them and off them
(`spaces`), and the notebook's study, evidence and tables.
"""
