"""Makes the sampler that a job asks for. torch is imported only when a model is loaded."""

from __future__ import annotations

from dataclasses import replace

from render_farm.engine.choice import ENGINES, choose_engine
from render_farm.engine.folder import check_folder
from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Sampler
from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError


def build_sampler(
    engine: str,
    source: ModelSource,
    *,
    threads: int = 1,
    seconds_per_image: float = 0.0,
) -> Sampler:
    """The sampler for `model.engine`; ``auto`` is ``steps`` where the model allows it.

    `threads` is how many threads a CPU renders with; see `set_threads` for why it is one.
    `seconds_per_image` slows a rehearsal down.

    Raises: `ModelError` when the engine is not known or the model cannot be loaded.
    """
    if engine == "rehearsal":
        return RehearsalSampler(seconds_per_image=seconds_per_image)
    if engine not in ENGINES:
        raise ModelError("model.engine", engine, ", ".join(ENGINES), "set model.engine: auto")
    # Importing torch and diffusers takes seconds, and the command line must not wait for it.
    from render_farm.engine.call import CallSampler  # noqa: PLC0415
    from render_farm.engine.compiling import is_compiled  # noqa: PLC0415
    from render_farm.engine.device import choose_device, set_threads  # noqa: PLC0415
    from render_farm.engine.model import load_pipeline, local_folder  # noqa: PLC0415
    from render_farm.engine.steps import StepSampler  # noqa: PLC0415

    set_threads(threads)
    source = replace(source, path=str(local_folder(source)))
    facts = check_folder(source.path, safety_checker=source.safety_checker)
    chosen = choose_engine(engine, facts, source.offload)
    compiled = is_compiled(source, choose_device(source.device))
    loaded = load_pipeline(source)
    return StepSampler(loaded, compiled) if chosen == "steps" else CallSampler(loaded, compiled)
