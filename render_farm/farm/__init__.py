"""Who renders what, when: the pure scheduler, the worker, the driver loop, progress.

Owns: the attempt at a shard, the decisions between attempts, the only code that imports Ray.
Must not know: the terminal, the environment, what a key in the store means.
"""
