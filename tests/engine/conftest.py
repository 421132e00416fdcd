"""The tiny model folders, made once a session, and the samplers on top of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.engine.call import CallSampler
from render_farm.engine.device import set_threads
from render_farm.engine.model import LoadedPipeline, ModelSource, load_pipeline
from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.steps import StepSampler
from render_farm.job.request import RenderRequest
from tests.models.folders import make_old_sd, make_sd15, make_sdxl

REQUEST = RenderRequest(
    row=0,
    sample=0,
    id=None,
    prompt="a red square",
    negative_prompt="",
    seed=1,
    width=64,
    height=64,
    steps=2,
    guidance_scale=7.5,
    scheduler="model",
)

DEMO_MODEL = Path(__file__).parents[2] / "jobs" / "scenes" / "model"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and os.environ.get("CI") != "true",
    reason="torch.compile needs a C++ compiler (Debian: g++ and python3-dev)",
)

MakeRequest = Callable[..., RenderRequest]
LoadModel = Callable[..., LoadedPipeline]


def pixels_of(answers: Iterable[Rendered | Refused]) -> dict[int, bytes]:
    """Each row's pixels; every answer must be a picture, and the only one of its row."""
    done: dict[int, bytes] = {}
    for answer in answers:
        assert isinstance(answer, Rendered), answer
        assert answer.request.row not in done
        done[answer.request.row] = answer.pixels.tobytes()
    return done


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # with two threads on a busy machine torch is a hundred times slower
    set_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def sd15_folder(models: Path) -> Path:
    return make_sd15(models / "sd15")


@pytest.fixture(scope="session")
def fp16_folder(models: Path) -> Path:
    return make_sd15(models / "fp16", full_weights=False)


@pytest.fixture(scope="session")
def old_folder(models: Path) -> Path:
    return make_old_sd(models / "old")


@pytest.fixture(scope="session")
def sdxl_folder(models: Path) -> Path:
    return make_sdxl(models / "sdxl")


@pytest.fixture(scope="session")
def sd15(sd15_folder: Path) -> LoadedPipeline:
    return load_pipeline(ModelSource(str(sd15_folder), device="cpu"))


@pytest.fixture(scope="session")
def sdxl(sdxl_folder: Path) -> LoadedPipeline:
    return load_pipeline(ModelSource(str(sdxl_folder), device="cpu"))


@pytest.fixture
def sampler(sd15: LoadedPipeline) -> CallSampler:
    return CallSampler(sd15)


@pytest.fixture
def request_of() -> MakeRequest:
    """Makes a request: `request_of(row, prompt=…)`; row and seed differ unless given."""

    def make(row: int = 0, **changes: object) -> RenderRequest:
        return replace(REQUEST, **{"row": row, "seed": 1000 + row, **changes})

    return make


@pytest.fixture(scope="session")
def load_model(sd15_folder: Path, sdxl_folder: Path) -> LoadModel:
    """Loads ``sd15``, ``sdxl`` or ``demo`` anew, for a step engine that takes it over."""
    folders = {"sd15": sd15_folder, "sdxl": sdxl_folder, "demo": DEMO_MODEL}

    def load(model: str, **more: object) -> LoadedPipeline:
        settings: dict[str, object] = {"device": "cpu", "dtype": "float32", **more}
        return load_pipeline(ModelSource(str(folders[model]), **settings))

    return load


@pytest.fixture(scope="session")
def stepped(load_model: LoadModel) -> LoadedPipeline:
    """The demo model, for step engines only."""
    return load_model("demo")


@pytest.fixture
def stepper(stepped: LoadedPipeline) -> StepSampler:
    """A step engine that remembers nothing, on the demo model."""
    return StepSampler(stepped)
