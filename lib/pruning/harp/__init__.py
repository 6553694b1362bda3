"""The HARP notebook (Zhao & Wressnegger, ICLR 2023): measuring, evidence, tables, published numbers. Which networks
stands in lib/plan/harp_pruning.py.
"""
