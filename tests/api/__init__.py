"""Tests of what programs speak to a server."""
