"""Measuring the farm: a run of pictures for free through the real path, and what it cost.

Owns the workload, the pool that counts messages, and the figures. The measured driver is a process
of its own, so that its memory is nobody else's. Knows the farm's parts by what they promise: what
is measured here is what `submit` does.
"""
