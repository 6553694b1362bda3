"""Benchmarks against peers: the same work done by lib and by well-known packages, in turn, in one process.

`benchmarks/run.sh NAME` runs one. `timing` (races and rows), `peers` (what lib is compared with), `networks` (what is
attacked), `environment` (where the peers are installed) and a module for every NAME; `golden` writes the tensors that
tests/house/test_peers.py compares with.
"""
