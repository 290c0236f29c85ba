"""Contracts with the servers this project talks to, checked against recordings."""
