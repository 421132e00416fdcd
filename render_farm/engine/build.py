"""Makes the sampler that a job asks for. torch is imported only when a model is loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from render_farm.engine.checks import check_request
from render_farm.engine.choice import ENGINES, choose_engine
from render_farm.engine.folder import FolderFacts, check_folder
from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Sampler, SamplerInfo
from render_farm.engine.schedulers import check_scheduler
from render_farm.engine.several import Unloaded
from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError
from render_farm.job.request import RenderRequest


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
    from render_farm.engine.model import fitting, load_pipeline, local_folder  # noqa: PLC0415
    from render_farm.engine.steps import StepSampler  # noqa: PLC0415

    set_threads(threads)
    source = replace(source, path=str(local_folder(source)))
    facts = check_folder(source.path, safety_checker=source.safety_checker)
    chosen = choose_engine(engine, facts, source.offload)
    compiled = is_compiled(source, choose_device(source.device))
    loaded = load_pipeline(source)
    with fitting(source, loaded.device):
        return StepSampler(loaded, compiled) if chosen == "steps" else CallSampler(loaded, compiled)


def known_beforehand(engine: str, source: ModelSource, *, threads: int = 1) -> Unloaded:
    """A model in a local folder, to be loaded later by `build_sampler`; imports torch.

    Raises: `ModelError` when its small files show already that it cannot be loaded.
    """
    from render_farm.engine.device import (  # noqa: PLC0415
        choose_device,
        choose_dtype,
        device_model,
        library_versions,
        set_threads,
    )

    set_threads(threads)
    facts = check_folder(source.path, safety_checker=source.safety_checker)
    device = choose_device(source.device)
    dtype = str(choose_dtype(source.dtype, device)).removeprefix("torch.")
    chosen = choose_engine(engine, facts, source.offload)
    return Unloaded(
        info=SamplerInfo(chosen, device_model(device), dtype, library_versions()),
        check=_check_by_folder(facts),
        load=partial(build_sampler, engine, source, threads=threads),
    )


def free_memory() -> None:
    """Give back to the device what samplers held that nobody holds any more."""
    from render_farm.engine.device import choose_device, free_cache  # noqa: PLC0415

    gc.collect()  # pipelines refer to themselves in circles
    free_cache(choose_device("auto"))


def _check_by_folder(facts: FolderFacts) -> Callable[[RenderRequest], None]:
    """Refuses what the small files of a model show that it can never render, by `RowError`."""
    config = facts.config("scheduler/scheduler_config.json")
    own_class = facts.layout.components.get("scheduler", "")

    def check(request: RenderRequest) -> None:
        check_request(request, facts.size_factor)
        check_scheduler(request.scheduler, request.steps, config, own_class)

    return check
