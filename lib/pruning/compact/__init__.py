"""The notebook on compact and robust networks (Sehwag et al., arXiv 1906.06110): measuring, evidence, tables, published
numbers. Which networks stands in lib/plan/compact_robust_pruning.py.
"""
