"""Adapters to the runtimes, one file each."""
