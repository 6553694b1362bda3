"""Profiles: the YAML files under configs/ as values, and the pool of networks that all papers share."""

LADDER = ("test", "smoke", "laptop", "gpu", "paper")  # each does more than the one before it
PROFILES = (*LADDER, "imagenet")  # every file under configs/; imagenet has other data and no place in the order
