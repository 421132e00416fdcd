"""Render Parquet datasets of prompts into images, exactly once, on one machine or a Ray cluster."""

__version__ = "0.1.0"
