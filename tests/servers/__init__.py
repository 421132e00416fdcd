"""S3 servers for the tests, on the loopback: moto in-process, Ceph RGW, a proxy that makes faults.

Each is a context manager with `endpoint_url`, `environment()` (the ``AWS_*`` variables that lead
to it) and `make_bucket(name)`; none sets anything in the environment of the process.
"""
