"""The papers: a folder each, with its settings, networks, results, evidence, tables, figures and the paper's own
numbers."""
