"""The run of a job that was prepared: the one that is there, or a new one."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata

from render_farm import __version__
from render_farm.errors import InputError, Problem, StoreError
from render_farm.farm.prepare import Prepared, store_problem
from render_farm.ledger import keys
from render_farm.ledger.cancel import refuse_cancelled
from render_farm.ledger.record import (
    PinnedPrompts,
    RunRecord,
    compare,
    create_record,
    new_record,
    read_record,
)
from render_farm.store.base import Store, exists
from render_farm.store.open import open_store
from render_farm.store.probe import WITHOUT_ATOMIC_CREATE, probe_atomic_create, unfair_race

log = logging.getLogger(__name__)

PINNED_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "pillow")


def open_run(prepared: Prepared, *, allow_no_cas: bool) -> tuple[Store, RunRecord]:
    """The run of a prepared job: the one that is there, or a new one.

    With `allow_no_cas` a store that cannot create atomically is taken, and the log says what that
    means.

    Raises:
        InputError: the place holds another job's run, a cancelled one, or its store cannot
            create objects atomically.
    """
    store = open_store(prepared.job.output.uri)
    with _as_input("output.uri", prepared.job.output.uri):
        wanted = new_run_record(prepared)
        existing = _existing_run(store, wanted)
        if existing is not None:
            return store, existing
        prefix = keys.PROBE.rstrip("/")
        if not allow_no_cas:
            probe_atomic_create(store, prefix)
        elif unfair_race(store, prefix) is not None:
            log.warning("%s: %s", store.uri, WITHOUT_ATOMIC_CREATE)
        return store, create_record(store, wanted)


def check_output(prepared: Prepared) -> bool:
    """Check the place for the result as `open_run` does, and leave it as it was.

    Returns whether there is a run to go on with. Raises: as `open_run`.
    """
    store = open_store(prepared.job.output.uri)
    with _as_input("output.uri", prepared.job.output.uri):
        if _existing_run(store, new_run_record(prepared)) is not None:
            return True
        probe_atomic_create(store, keys.PROBE.rstrip("/"))
        return False


def new_run_record(prepared: Prepared) -> RunRecord:
    """The record that a run of this job would have."""
    return new_record(
        prepared.job,
        PinnedPrompts.of(prepared.dataset, prepared.columns),
        prepared.models,
        software_versions(),
        datetime.now(UTC),
    )


def _existing_run(store: Store, wanted: RunRecord) -> RunRecord | None:
    """The run that is there, if it is the same job's and was not cancelled."""
    if not exists(store, keys.RUN):
        return None
    existing = read_record(store)
    if differences := compare(existing, wanted):
        raise InputError(tuple(differences))
    refuse_cancelled(store)
    return existing


def software_versions() -> dict[str, str]:
    """The versions that decide pixels and bytes, as installed here."""
    versions = {"python": platform.python_version(), "render_farm": __version__}
    return versions | {name: metadata.version(name) for name in PINNED_LIBRARIES}


def changed_versions(record: RunRecord) -> dict[str, tuple[str, str]]:
    """Library: (version at the first submit, version here), where they differ."""
    here = software_versions()
    return {
        name: (pinned, here[name])
        for name, pinned in record.versions.items()
        if name in here and here[name] != pinned
    }


@contextmanager
def _as_input(field: str, uri: str) -> Iterator[None]:
    """A store that cannot be reached before anything was rendered is the user's to mend."""
    try:
        yield
    except StoreError as error:
        problem = store_problem(field, error)
        raise InputError(
            (Problem(field, f"{uri} ({problem.value})", problem.allowed, problem.fix),)
        ) from error
