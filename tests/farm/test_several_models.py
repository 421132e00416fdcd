"""Jobs with several models, from the job file to the replay of what was rendered."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Refused, Rendered, Sampler
from render_farm.engine.several import SeveralModels, Unloaded
from render_farm.errors import InputError, ModelError, OutOfMemory, RowError
from render_farm.farm.attempt import Attempt
from render_farm.farm.backlog import Backlog
from render_farm.farm.in_flight import at_once
from render_farm.farm.messages import Assignment, Tally
from render_farm.farm.models import build_here, build_pinned
from render_farm.farm.prepare import prepare
from render_farm.farm.retry import make_child
from render_farm.job.request import Kind, RenderRequest
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import iter_receipts
from render_farm.views.replay import replay_samples
from render_farm.views.results import shard_metadata
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.models import folders

ROWS = 8
NAMES = ["plain", "comic"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def models(model: Path) -> dict[str, dict[str, Any]]:
    """Two models of one path, told apart by a LoRA and by how they are held."""
    lora = folders.make_lora(model.with_name("lora.safetensors"), model)
    comic = {"path": str(model), "loras": [{"path": str(lora)}], "dtype": "bfloat16"}
    return {"plain": {"path": str(model)}, "comic": comic}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Prompts whose column `model` goes to and fro between the two."""
    chosen = [NAMES[row % 2] for row in range(ROWS)]
    return write_prompts(tmp_path / "p.parquet", ROWS, model=chosen)


def rendered(prompts: Path, output: Path, **sections: Any) -> Run:
    """A run of tiny pictures, driven to its end in this process."""
    sections = {"defaults": {"steps": 2}, "workers": {"batch_size": 2}} | sections
    run = submit(make_job(prompts, output, **sections), str(output.with_name("cache")))
    assert run.drive().reason is None
    assert verify_run(run.store, run.record).ok
    return run


def samples(run: Run) -> list[dict[str, Any]]:
    """The metadata of a run's samples, without what may differ from attempt to attempt."""
    tables = [shard_metadata(run.store, receipt) for receipt in iter_receipts(run.store)]
    lines = pa.concat_tables([table for table in tables if table is not None]).to_pylist()
    own = {"attempt", "worker", "render_s", "created_at", "key"}
    kept = [{k: v for k, v in line.items() if k not in own} for line in lines]
    return sorted(kept, key=lambda line: line["row"])


# --- what is rendered ---


def test_a_row_renders_to_the_bytes_and_metadata_that_a_job_of_its_model_alone_gives_it(
    prompts: Path, tmp_path: Path, models: dict[str, dict[str, Any]]
):
    several = samples(rendered(prompts, tmp_path / "several", models=models))
    alone = {
        name: samples(rendered(prompts, tmp_path / name, model={"engine": "auto", **models[name]}))
        for name in NAMES
    }
    assert several == [alone[line["input_model"]][line["row"]] for line in several]
    assert [line["input_model"] for line in several] == NAMES * (ROWS // 2)
    assert len({line["sha256"] for line in several}) == ROWS
    assert {(line["input_model"], line["dtype"]) for line in several} == {
        ("plain", "float32"),
        ("comic", "bfloat16"),
    }
    assert alone["plain"] != alone["comic"]


def test_samples_of_several_models_come_out_the_same_in_a_replay(
    prompts: Path, tmp_path: Path, models: dict[str, dict[str, Any]]
):
    run = rendered(prompts, tmp_path / "run", models=models)
    replays = replay_samples(
        run.store,
        run.record,
        ROWS,
        lambda compiled: build_here(run.record, run.model_cache, compiled=compiled),
    )
    assert len(replays) == ROWS
    assert all(replay.same for replay in replays)


def test_batch_shapes_are_settled_for_each_model(
    prompts: Path, tmp_path: Path, models: dict[str, dict[str, Any]]
):
    run = rendered(prompts, tmp_path / "run", models=models)
    names = [info.key.removeprefix(keys.SHAPES) for info in run.store.list(keys.SHAPES)]
    assert sorted(name.partition("@")[2] for name in names) == [
        "comic@64x64-1.json",
        "plain@64x64-1.json",
    ]


def test_a_worker_loads_only_the_models_that_its_rows_ask_for(
    tmp_path: Path, models: dict[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "render_farm.farm.models")
    prompts = write_prompts(tmp_path / "p.parquet", 2)
    rendered(prompts, tmp_path / "run", models=models, defaults={"model": "plain", "steps": 2})
    ready = [line for line in caplog.records if line.message == "the model is ready"]
    assert [(line.model_name, line.load_s > 0) for line in ready] == [("plain", True)]


def test_what_a_loaded_model_cannot_render_is_quarantined_whether_or_not_its_files_told(
    tmp_path: Path, models: dict[str, dict[str, Any]]
):
    columns = {"model": ["plain", "comic", "plain"], "scheduler": ["model", "quick", "model"]}
    prompts = write_prompts(tmp_path / "p.parquet", 3, width=[64, 64, 65], **columns)
    run = rendered(prompts, tmp_path / "run", models=models, limits={"max_quarantined": 1.0})
    (receipt,) = iter_receipts(run.store)
    assert receipt.errors_by_type == {"bad_size": 1, "unknown_scheduler": 1}
    built = build_here(run.record, run.model_cache)
    assert isinstance(built, SeveralModels)
    fine = RenderRequest(0, 0, None, "p", "", 0, 64, 64, 2, 7.5, "model", "comic")
    built.check(fine)
    for wrong in ({"width": 65}, {"scheduler": "quick"}, {"steps": 0}, {"guidance_scale": -1.0}):
        with pytest.raises(RowError):
            built.check(replace(fine, **wrong))
    assert built.is_alone("comic")


# --- what is pinned ---


def fields(error: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [problem.field for problem in error.value.problems]


def test_each_model_is_pinned_and_a_changed_one_is_refused_by_its_name(
    prompts: Path, tmp_path: Path, model: Path
):
    own = shutil.copytree(model, tmp_path / "own")
    several = {"plain": {"path": str(model)}, "comic": {"path": str(own)}}
    job = make_job(prompts, tmp_path / "run", models=several)
    run = submit(job)
    assert {len(str(pinned.digest)) for pinned in run.record.pinned.values()} == {64}
    assert submit(job).record == run.record
    config = own / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    with pytest.raises(InputError) as error:
        submit(job)
    assert fields(error) == ["models.comic (digest)"]
    with pytest.raises(InputError, match="digest") as error:
        run.drive()
    assert fields(error) == ["models.comic.path"]


def test_models_that_came_went_or_changed_are_told_by_name(
    prompts: Path, tmp_path: Path, models: dict[str, dict[str, Any]]
):
    def submitted(**sections: Any) -> None:
        submit(make_job(prompts, tmp_path / "run", **sections), str(tmp_path / "cache"))

    submitted(models=models)
    half = {**models["plain"], "dtype": "float16"}
    changes: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"models": {"plain": models["plain"]}}, ["models"]),
        ({"models": {**models, "new": models["plain"]}}, ["models"]),
        ({"models": {**models, "plain": half}}, ["models.plain.dtype"]),
        ({"models": models, "defaults": {"model": "plain"}}, ["defaults.model"]),
        ({"model": {**models["plain"], "engine": "auto"}}, ["models", "prompts.columns"]),
    )
    for sections, changed in changes:
        with pytest.raises(InputError) as error:
            submitted(**sections)
        assert fields(error) == changed
    submitted(models=dict(reversed(models.items())))


def test_everything_wrong_with_every_model_is_told_at_once_by_its_name(tmp_path: Path, model: Path):
    prompts = write_prompts(tmp_path / "p.parquet", 2)
    several = {
        "gone": {"path": str(tmp_path / "no-model"), "loras": [{"path": "no.safetensors"}]},
        "skips": {"path": str(model), "clip_skip": 9},
        "fine": {"path": str(model)},
    }
    job = make_job(prompts, tmp_path / "run", models=several, defaults={"width": 12})
    with pytest.raises(InputError) as error:
        prepare(job, str(tmp_path / "cache"))
    assert sorted(fields(error)) == [
        "defaults.model",
        "defaults.width",
        "defaults.width",
        "models.gone.loras",
        "models.gone.path",
        "models.skips.clip_skip",
    ]
    told = {p.value: p for p in error.value.problems if p.field == "defaults.width"}
    assert told.keys() == {"12, for models.skips", "12, for models.fine"}


def test_a_model_that_cannot_be_loaded_stops_the_run_with_its_name(
    prompts: Path, tmp_path: Path, models: dict[str, dict[str, Any]]
):
    run = submit(make_job(prompts, tmp_path / "run", models=models), str(tmp_path / "cache"))

    def build(record: Any, options: Any) -> SeveralModels:
        built = build_pinned(record, options)
        assert isinstance(built, SeveralModels)
        return built

    worker = run.worker(build)
    weights = Path(models["plain"]["path"]) / "vae" / "config.json"
    before = weights.read_text()
    weights.write_text("{")
    try:
        answer = worker.run(Assignment(0, AttemptLog(shard=0), Tally()))
    finally:
        weights.write_text(before)
        worker.close()
    assert "models." in answer.reason
    assert ".path" in answer.reason


# --- who renders what, when ---


class Recorder(RehearsalSampler):
    """Notes of each call which model's rows it was asked for; batches over `fits` do not fit."""

    def __init__(self, calls: list[tuple[str, list[int]]], fits: int = 1024) -> None:
        super().__init__()
        self._calls = calls
        self._fits = fits

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        if batch_size > self._fits:
            raise OutOfMemory(batch_size, "does not fit")
        taken = list(requests)
        if taken:
            self._calls.append((taken[0].model, [request.row for request in taken]))
        yield from super().render(taken, batch_size)


REHEARSED: dict[str, Any] = {
    name: {"path": "none", "engine": "rehearsal"} for name in ("a", "b", "c")
}


@pytest.fixture
def rehearsal(tmp_path: Path) -> Callable[..., Run]:
    """A rehearsal of shards of four rows, whose models go round."""

    def make(rows: int = 12, models: str = "ab", **sections: Any) -> Run:
        chosen = [models[row % len(models)] for row in range(rows)]
        path = write_prompts(tmp_path / "p.parquet", rows, model=chosen)
        return submit(make_job(path, tmp_path / "run", models=REHEARSED, **sections))

    return make


def render_in_hand(run: Run, sampler: Sampler | SeveralModels, shards: int) -> list[Attempt]:
    """Shards that one worker has in hand at once, rendered."""
    worker = run.worker(lambda record, options: sampler)
    backlog = Backlog[Attempt]()
    attempts = []
    for shard in range(shards):
        attempt = worker.begin(Assignment(shard, AttemptLog(shard=shard), Tally()), at_once)
        assert isinstance(attempt, Attempt)
        backlog.add(attempt, attempt.tickets)
        attempts.append(attempt)

    def failed(concerned: list[Attempt], error: Exception) -> None:
        raise error

    worker.stream(backlog, Attempt.take, failed).run(wait=False)
    for attempt in attempts:
        attempt.discard()
    worker.close()
    return attempts


def test_the_rows_of_a_model_are_rendered_together_across_shards(rehearsal: Callable[..., Run]):
    calls: list[tuple[str, list[int]]] = []
    attempts = render_in_hand(rehearsal(), Recorder(calls), shards=3)
    assert calls == [("a", list(range(0, 12, 2))), ("b", list(range(1, 12, 2)))]
    assert all(attempt.complete for attempt in attempts)


def test_what_is_too_large_for_one_model_is_no_smaller_for_another(
    rehearsal: Callable[..., Run],
):
    calls: list[tuple[str, list[int]]] = []
    info = RehearsalSampler().info
    several = SeveralModels(
        {
            "a": Unloaded(info, lambda request: None, lambda: Recorder(calls, fits=2)),
            "b": Unloaded(info, lambda request: None, lambda: Recorder(calls)),
        },
        free=lambda: None,
    )
    run = rehearsal()
    attempts = render_in_hand(run, several, shards=3)
    assert all(attempt.complete for attempt in attempts)
    shapes = [info.key.removeprefix(keys.SHAPES) for info in run.store.list(keys.SHAPES)]
    assert sorted(shapes) == [
        "rehearsal@a@64x64-1.json",
        "rehearsal@a@64x64-2.json",
        "rehearsal@b@64x64-1.json",
    ]


def test_kinds_are_told_apart_by_model_before_size():
    assert sorted([Kind("b", 8, 8), Kind("a", 16, 8), Kind("a", 8, 16)]) == [
        Kind("a", 8, 16),
        Kind("a", 16, 8),
        Kind("b", 8, 8),
    ]


# --- rows that name no model ---


def test_a_row_that_names_no_model_is_quarantined_and_can_be_retried(tmp_path: Path):
    chosen = ["a", "z", None, "b"]
    prompts = write_prompts(tmp_path / "p.parquet", 4, model=chosen)
    run = submit(
        make_job(prompts, tmp_path / "run", models=REHEARSED, limits={"max_quarantined": 1.0})
    )
    run.drive()
    assert verify_run(run.store, run.record).ok
    (receipt,) = iter_receipts(run.store)
    assert receipt.errors_by_type == {"unknown_model": 2}
    table = shard_metadata(run.store, receipt)
    assert table is not None
    assert table["input_model"].to_pylist() == ["a", "b"]
    child = make_child(run.store, run.record, cancelled=False)
    assert (child.rows, child.job.every_model) == (2, run.record.job.every_model)
    again = submit(child.job)
    again.drive()
    assert verify_run(run.store, run.record).ok


def test_an_error_about_a_model_is_one_whatever_its_kind(tmp_path: Path, model: Path):
    several = {"huge": {"path": str(model), "offload": "model"}}
    prompts = write_prompts(tmp_path / "p.parquet", 2)
    job = make_job(prompts, tmp_path / "run", models=several, defaults={"model": "huge"})
    run = submit(job, str(tmp_path / "cache"))
    built = build_here(run.record, run.model_cache)
    assert isinstance(built, SeveralModels)
    with pytest.raises(ModelError, match=r"models\.huge\.offload") as error:
        built.sampler("huge")
    assert "remove models.huge.offload" in error.value.problem.fix
