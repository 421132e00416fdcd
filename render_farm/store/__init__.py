"""Bytes under keys: one small interface, and S3, a local folder and memory behind it.

Owns: the `Store` protocol, retries against transient faults, and the translation of foreign
errors (botocore, `OSError`) into `render_farm.errors`.
Must not know: what any key means; what a job, shard, receipt or image is.
"""
