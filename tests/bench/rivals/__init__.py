"""What others would do with the same prompts: each a command of its own that prints its rate.

    python -m tests.bench.rivals.plain_loop '{"prompts": …, "output": …}'

All of them read the same Parquet file, encode with `render_farm.output.codecs.encode` and write
Parquet files with the image as `struct<bytes, path>` beside comparable metadata. None of them can
resume, retry or say which rows are missing.
"""
