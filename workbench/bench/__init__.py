"""Benchmarks: a spec becomes a run, cells and trials; what they found is in the log."""
