"""Tests of what can be watched of a running engine."""
