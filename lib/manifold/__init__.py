"""Off-manifold robustness (Srinivas et al., NeurIPS 2023): tangent spaces (`spaces`) and the sensitivity of classifiers
along them and off them (`sensitivity`).
"""
