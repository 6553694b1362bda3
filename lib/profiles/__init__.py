"""Profiles: the YAML files under configs/ as values, and the pool of networks that all papers share."""
