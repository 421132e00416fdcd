"""How an image is made: models, schedulers, batching, checks of latents and pixels.

Owns: the only code that imports torch and diffusers; the `Sampler` protocol.
Must not know: Ray, S3, shards, receipts, files. It sees local model folders only, so that it can
be run and measured alone on a bare machine with an accelerator.
"""
