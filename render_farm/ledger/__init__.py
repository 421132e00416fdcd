"""The meaning of keys: run record, receipts, manifest, driver lease, sweep of orphans.

Owns: every key below a run's URI and the protocol that makes a shard committed exactly once.
Must not know: how images are made or encoded, Ray, the terminal.
"""
