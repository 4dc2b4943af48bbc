"""Benchmarks: each a module with `python -m tests.benchmarks.NAME --out FILE`; those with an underscore are helpers."""
