"""Measurements of the workbench itself against its peers."""
