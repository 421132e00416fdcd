"""What a run must not give away, open or fetch, shown on real servers and processes."""
