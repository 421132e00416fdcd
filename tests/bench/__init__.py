"""Measurements: small forms of what `make bench` does in full, and the rivals it measures."""
