"""Benchmarks: each measures the program beside its peer or its physical limit in the same run.

`python -m bench` runs them all and writes `bench/RESULTS.md`; `python -m bench keys` runs one.
"""
