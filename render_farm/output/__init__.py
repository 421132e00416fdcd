"""Pixels to files: codecs, containers (webdataset, parquet, files) and the metadata schema.

Owns: how an image is encoded, how samples are laid out in files, what a metadata row holds, the
names of a shard's files below the run's URI, reading all of it back.
Must not know: the store, receipts and which attempt of a shard counts, who rendered, models.
"""
