"""Makes the sampler that a job asks for. torch is imported only when a model is loaded."""

from __future__ import annotations

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Sampler
from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError

ENGINES = ("auto", "call", "rehearsal")


def build_sampler(
    engine: str,
    source: ModelSource,
    *,
    threads: int = 1,
    seconds_per_image: float = 0.0,
) -> Sampler:
    """The sampler for `model.engine`; ``auto`` is ``call``.

    `threads` is how many threads a CPU renders with; see `set_threads` for why it is one.
    `seconds_per_image` slows a rehearsal down.

    Raises: `ModelError` when the engine is not known or the model cannot be loaded.
    """
    if engine == "rehearsal":
        return RehearsalSampler(seconds_per_image=seconds_per_image)
    if engine not in ENGINES:
        raise ModelError(
            "model.engine",
            f"{engine}: " + ("not yet in this version" if engine == "steps" else "not known"),
            ", ".join(ENGINES),
            "set model.engine: auto",
        )
    # Importing torch and diffusers takes seconds, and the command line must not wait for it.
    from render_farm.engine.call import CallSampler  # noqa: PLC0415
    from render_farm.engine.device import set_threads  # noqa: PLC0415
    from render_farm.engine.model import load_pipeline  # noqa: PLC0415

    set_threads(threads)
    return CallSampler(load_pipeline(source))
