"""Where a job's models lie on this node, and whether they are those that the run pinned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from render_farm.engine.blobs import check_blob
from render_farm.engine.folder import model_digest
from render_farm.engine.hub import is_hub_id, resolve_hub, resolve_lora
from render_farm.engine.layout import PICKLES
from render_farm.engine.loras import ALLOWED as LORAS
from render_farm.engine.loras import FIELD, SUFFIX, choose_lora, pickled
from render_farm.engine.source import LoraFile, ModelSource
from render_farm.errors import InputError, ModelError
from render_farm.job.spec import ONLY_MODEL, ModelSpec
from render_farm.ledger.record import PinnedModel, RunRecord
from render_farm.store.fetch import fetch_folder, fetch_store, known_digests
from render_farm.store.open import expanded, open_store


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model as the job names it, and the local folder that holds it on this node."""

    path: str
    revision: str | None
    folder: str


@dataclass(frozen=True, slots=True)
class LocatedLora:
    """A LoRA as the job names it, and the local file that holds it on this node."""

    path: str
    file: str


def locate_model(
    path: str, revision: str | None, cache: str, *, safety_checker: bool = False
) -> LocatedModel:
    """Bring the model of a job onto this node: a local folder, an s3:// prefix or a hub id.

    A relative folder becomes absolute and a hub revision its commit, so that every worker and
    every resume means the same. `safety_checker` asks for the model's own safety checker.

    Raises:
        ModelError: there is no such model.
        AccessDenied, Unavailable: the store that has it failed.
    """
    if "://" in path:
        with _as_model_error("model.path"):
            return LocatedModel(path, None, str(fetch_folder(path, Path(cache))))
    folder = expanded(path)
    if folder.is_dir() or not is_hub_id(path):
        folder = folder.absolute()
        return LocatedModel(str(folder), None, str(folder))
    hub = resolve_hub(path, revision, safety_checker=safety_checker)
    return LocatedModel(path, hub.commit, hub.path)


def locate_lora(path: str, cache: str) -> LocatedLora:
    """Bring a LoRA of a job onto this node: a file, a folder, an s3:// object or prefix, a hub id.

    What is fetched is the one file. A relative path becomes absolute, and a hub id names its
    commit, ``owner/name@commit``.

    Raises:
        ModelError: there is no such LoRA, or several, or it is no safetensors file.
        AccessDenied, Unavailable: the store that has it failed.
    """
    if path.endswith(PICKLES):
        raise pickled(path)
    if "://" in path:
        with _as_model_error(FIELD):
            return LocatedLora(path, str(_fetch_lora(path, Path(cache))))
    local = expanded(path).absolute()
    repository = path.partition("@")[0]
    if not local.exists() and not path.endswith(SUFFIX) and is_hub_id(repository):
        hub = resolve_lora(path)
        file = choose_lora(path, (entry.name for entry in Path(hub.path).iterdir()))
        return LocatedLora(f"{repository}@{hub.commit}", str(Path(hub.path) / file))
    if local.is_dir():
        file = choose_lora(path, (entry.name for entry in local.iterdir() if entry.is_file()))
        return LocatedLora(str(local), str(local / file))
    if not local.is_file():
        raise ModelError(FIELD, f"{path}: there is no such file", LORAS, "correct the path")
    if local.suffix != SUFFIX:
        raise pickled(path)
    return LocatedLora(str(local), str(local))


def pinned_files(
    model: ModelSpec, located: LocatedModel, cache: str
) -> tuple[str, tuple[LoraFile, ...]]:
    """The digest of all that loading reads, and the LoRAs of it.

    A file that this node has read or fetched before, and that nobody touched since, is not read.

    Raises:
        ModelError: as `locate_lora`; or a file came damaged from the hub.
    """
    loras = tuple(LoraFile(locate_lora(lora.path, cache).file, lora.weight) for lora in model.loras)
    known = known_digests(Path(cache))

    def digest_of(path: Path) -> str:
        sha256 = known.of(path)
        check_blob(path, sha256)
        return sha256

    digest = model_digest(
        located.folder, safety_checker=model.safety_checker, loras=loras, digest_of=digest_of
    )
    return digest, loras


def locate_pinned(record: RunRecord, name: str, model_cache: str) -> LocatedModel:
    """Bring a model of a run onto this node. Raises: as `locate_model`."""
    pinned, safety_checker = record.pinned[name], record.job.every_model[name].safety_checker
    return locate_model(pinned.path, pinned.revision, model_cache, safety_checker=safety_checker)


def checked_source(
    record: RunRecord,
    located: LocatedModel,
    model_cache: str,
    *,
    name: str = ONLY_MODEL,
    compiled: bool | None = None,
) -> ModelSource:
    """What a run says of a model, with all files on this node, as the engine takes it.

    `compiled` stands in for the job's `compile`; None leaves it as it is. Of several models each is
    taken to make its share of the images.

    Raises:
        ModelError: a LoRA is not there.
        InputError: it is another model by now.
    """
    models = record.job.every_model
    model = models[name]
    digest, loras = pinned_files(model, located, model_cache)
    _check_digest(record.pinned[name], model, located, digest)
    return ModelSource(
        located.folder,
        dtype=model.dtype,
        offload=model.offload,
        loras=loras,
        clip_skip=model.clip_skip,
        safety_checker=model.safety_checker,
        compile=model.compile if compiled is None else compiled,
        planned_images=record.plan.samples // len(models),
        compile_cache=str(Path(model_cache) / "compiled"),
    )


def _fetch_lora(uri: str, cache: Path) -> Path:
    if uri.endswith(SUFFIX):
        folder, _, name = uri.rpartition("/")
        store = open_store(folder)
    else:
        store = open_store(uri)
        name = choose_lora(uri, (info.key for info in store.list()))
    return fetch_store(store, cache, only=name) / name


@contextmanager
def _as_model_error(field: str) -> Iterator[None]:
    """A URI that leads nowhere is the key's that names it."""
    try:
        yield
    except InputError as error:
        problem = error.problems[0]
        raise ModelError(field, problem.value, problem.allowed, problem.fix) from error


def _check_digest(
    pinned: PinnedModel, model: ModelSpec, located: LocatedModel, digest: str
) -> None:
    if digest != pinned.digest:
        loras = [lora.path for lora in model.loras]
        raise InputError.of(
            "model.loras" if loras else "model.path",
            " with ".join([located.folder, *loras, f"digest {digest}"]),
            f"the model that the run pinned, with digest {pinned.digest}",
            "put that model back, or start a new run at another output.uri",
        )
