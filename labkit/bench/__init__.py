"""Benchmarks: two ways to one result, in one run, compared as a ratio (`make bench`).

Each benchmark checks first that both ways give the same numbers, then times them alternately, so that
whatever else the machine does falls on both. `figures/bench/<name>.json` keeps the ratio together with
the machine it was measured on. Nothing here is a test: a slow machine is not a bug.
"""
