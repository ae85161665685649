"""Measurements: speed as ratios within one process, accuracy with seeds and spread. ``python -m benchmarks --help``."""
