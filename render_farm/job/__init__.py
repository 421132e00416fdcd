"""What is to be rendered: the job file, the prompt dataset, the plan of shards, the requests.

Owns: `JobSpec` and its checks, reading Parquet, the plan, per-row parameters, the seed rule.
Must not know: how an image is made, who renders what and when, where results are committed.
"""
