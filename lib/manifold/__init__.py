"""Off-manifold robustness (Srinivas et al., NeurIPS 2023): tangent spaces (`spaces`), sensitivity along and off them
(`sensitivity`), and the notebook's study on its `ground`, evidence and tables.
"""
