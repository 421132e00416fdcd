"""From a job to a run: everything is checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from render_farm.errors import InputError
from render_farm.farm.prepare import open_run, prepare
from render_farm.ledger import keys
from render_farm.store.open import open_store
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.models import folders
from tests.servers.racy import RacyServer


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "p.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd15"
    folders.make_sd15(path)
    return path


def problems(error: pytest.ExceptionInfo[InputError]) -> dict[str, str]:
    return {problem.field: problem.allowed for problem in error.value.problems}


def test_paths_become_absolute_so_that_any_machine_means_the_same(
    prompts: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    job = make_job(
        "p.parquet", "run", model={"path": str(model), "engine": "auto"}, defaults={"width": 64}
    )
    prepared = prepare(job, "cache")
    assert prepared.job.output.uri == str(tmp_path / "run")
    assert prepared.job.prompts.path == str(tmp_path / "p.parquet")
    assert prepared.dataset.root == str(tmp_path)


def test_sizes_are_held_against_the_models_factor(prompts: Path, tmp_path: Path, model: Path):
    job = make_job(
        prompts,
        tmp_path / "run",
        model={"path": str(model), "engine": "auto"},
        defaults={"width": 65, "height": 60},
    )
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert problems(error).keys() == {"defaults.width", "defaults.height"}
    assert "multiples of 8" in problems(error)["defaults.width"]


def test_steps_and_schedulers_are_held_against_the_model(
    prompts: Path, tmp_path: Path, model: Path
):
    for defaults, field in (
        ({"scheduler": "lcm", "steps": 51}, "defaults.steps"),
        ({"scheduler": "quick"}, "defaults.scheduler"),
    ):
        job = make_job(
            prompts,
            tmp_path / "run",
            model={"path": str(model), "engine": "auto"},
            defaults=defaults,
        )
        with pytest.raises(InputError) as error:
            prepare(job, "cache")
        assert problems(error).keys() == {field}


def test_the_model_is_pinned_by_its_content(prompts: Path, tmp_path: Path, model: Path):
    sections: dict[str, Any] = {"model": {"path": str(model), "engine": "auto"}}
    digest = prepare(make_job(prompts, tmp_path / "run", **sections), "c").model.digest
    assert digest is not None
    assert len(digest) == 64


def test_another_model_in_the_same_place_is_refused(prompts: Path, tmp_path: Path):
    model = tmp_path / "model"
    folders.make_sd15(model)
    job = make_job(prompts, tmp_path / "run", model={"path": str(model), "engine": "auto"})
    run = submit(job)
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    with pytest.raises(InputError) as error:
        submit(job)
    assert problems(error).keys() == {"model (digest)"}
    with pytest.raises(InputError, match="digest"):
        run.drive()


def test_a_store_without_atomic_create_is_refused_and_left_as_it_was(
    prompts: Path, s3_env: Callable[[Any], None]
):
    with RacyServer() as server:
        s3_env(server)
        server.make_bucket("racy-bucket")
        job = make_job(prompts, "s3://racy-bucket/run")
        prepared = prepare(job, "cache")
        with pytest.raises(InputError) as error:
            open_run(prepared, allow_no_cas=False)
        assert "--allow-no-cas" in error.value.problems[0].fix
        store = open_store("s3://racy-bucket/run")
        assert list(store.list("")) == []
        open_run(prepared, allow_no_cas=True)
        assert [info.key for info in store.list("")] == [keys.RUN]


def test_the_probe_leaves_nothing_but_the_run(prompts: Path, tmp_path: Path):
    run = submit(make_job(prompts, tmp_path / "run"))
    assert [info.key for info in run.store.list("")] == [keys.RUN]


def test_what_is_wrong_in_several_places_is_told_at_once(tmp_path: Path):
    job = make_job(
        tmp_path / "none.parquet",
        "gs://bucket/run",
        model={"path": str(tmp_path / "no-model"), "engine": "call"},
    )
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert problems(error).keys() == {"output.uri", "prompts.path", "model.path"}
