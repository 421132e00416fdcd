"""Measures the engine against the stock pipeline and against the device, on a bare machine.

Owns: models of the published sizes made without a download, workloads, counted FLOPs, the peak of
the device, interleaved timing. Must not know: Ray, S3, the store, files; what encodes a picture is
handed in.
"""
