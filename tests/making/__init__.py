"""Makers of what tests need: datasets, jobs, runs. Nothing here asserts anything."""
