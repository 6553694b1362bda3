"""The shared library behind the six notebooks.

Five floors; a file imports only from floors below its own (tests/test_house.py checks it):

5  study, report, plots, claims, explore, command line     4  stitching, similarity, pruning
3  training: loop, objectives, zoo, evaluation             2  data, attacks, models
1  errors, architectures, recipe, settings, plan, runtime, statistics, store

Nothing here imports torch: a plan is made, priced and checked without it.
"""
