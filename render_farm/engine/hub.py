"""Fetches a model from the Hugging Face hub: only the files that loading reads, at one commit."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported lazily

from render_farm.engine.layout import ALLOWED, INDEX, read_layout
from render_farm.engine.loras import ALLOWED as ALLOWED_LORA
from render_farm.engine.loras import FIELD, SUFFIX, choose_lora
from render_farm.errors import ModelError

MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
EXAMPLE = "a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5, or a local folder"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub on this machine: its snapshot folder and the commit it is at."""

    path: str
    commit: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A repository and what is wanted of it.

    `choose` gets the names of its files, and what downloads one of them and says where it lies;
    it answers with the names of all to download. `cached` are patterns of files at the root
    without which the cache is of no use.
    """

    path: str
    revision: str | None
    cached: list[str]
    choose: Callable[[Collection[str], Callable[[str], str]], Collection[str]]


def is_hub_id(path: str) -> bool:
    """Whether a path is spelled as a hub id, ``owner/name``."""
    return HUB_ID.fullmatch(path) is not None


def resolve_hub(
    path: str,
    revision: str | None = None,
    *,
    endpoint: str | None = None,
    cache_dir: str | None = None,
    safety_checker: bool = False,
) -> HubModel:
    """Bring a model of the hub onto this machine and say at which commit it is.

    The files are chosen from their names before anything big is downloaded: a model that would
    be refused as a folder is refused here. Where the hub cannot be reached, what the cache has is
    used. `endpoint` and `cache_dir` default to what huggingface_hub reads from the environment.
    `safety_checker` asks for the model's own safety checker.

    Raises: `ModelError` naming ``model.path``, ``model.revision`` or ``model.safety_checker``.
    """

    def choose(names: Collection[str], fetch: Callable[[str], str]) -> Collection[str]:
        return _model_files(path, names, fetch, safety_checker=safety_checker)

    return _resolve(_Wanted(path, revision, [INDEX], choose), endpoint, cache_dir)


def resolve_lora(
    path: str, *, endpoint: str | None = None, cache_dir: str | None = None
) -> HubModel:
    """Bring the one LoRA of a repository of the hub onto this machine; see `resolve_hub`.

    `path` is ``owner/name``, or ``owner/name@revision``. The folder holds one `.safetensors`.

    Raises: `ModelError` naming ``model.loras``.
    """
    repository, _, revision = path.partition("@")

    def choose(names: Collection[str], _fetch: Callable[[str], str]) -> Collection[str]:
        return [choose_lora(path, names, "download the one you want and name its file")]

    wanted = _Wanted(repository, revision or None, ["*" + SUFFIX], choose)
    try:
        return _resolve(wanted, endpoint, cache_dir)
    except ModelError as error:
        problem = error.problem
        if problem.field == FIELD:
            raise
        fix = "correct the id; for a private repository set HF_TOKEN; or download the file"
        if problem.field == "model.revision":
            fix = f"write {repository} for the newest, or name another revision"
        raise ModelError(FIELD, problem.value, ALLOWED_LORA, fix) from error


def _resolve(wanted: _Wanted, endpoint: str | None, cache_dir: str | None) -> HubModel:
    path, revision = wanted.path, wanted.revision
    try:
        return _download(wanted, endpoint, cache_dir)
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError) as error:
        return _from_cache(wanted, cache_dir, error)
    except GatedRepoError as error:
        raise ModelError(
            "model.path",
            f"{path}: the hub gives it only to those who accepted its conditions",
            "a model that this machine's hub token can read",
            "accept the conditions on the model's page and set HF_TOKEN, or use a local folder",
        ) from error
    except RepositoryNotFoundError as error:
        raise _not_found(path) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            "model.revision",
            f"{revision} of {path}: the hub has no such revision",
            "a branch, tag or commit of the model",
            "leave model.revision out for the newest",
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in {404, 410}:
            raise _not_found(path) from error
        raise ModelError(
            "model.path",
            f"{path}: the hub answered {error.response.status_code}: {error}",
            EXAMPLE,
            "try again later, or use a local folder",
        ) from error
    except HFValidationError as error:
        raise ModelError("model.path", f"{path}: {error}", EXAMPLE, "correct the id") from error
    except OSError as error:
        raise ModelError(
            "model.path",
            f"{path}: cannot be stored on this machine: {error}",
            "a writable cache folder with room for the model",
            "set HF_HOME to such a folder",
        ) from error


def _download(wanted: _Wanted, endpoint: str | None, cache_dir: str | None) -> HubModel:
    path = wanted.path
    info = HfApi(endpoint=endpoint).model_info(path, revision=wanted.revision)
    commit = info.sha
    names = [sibling.rfilename for sibling in info.siblings or ()]

    def fetch(name: str) -> str:
        return hf_hub_download(path, name, revision=commit, endpoint=endpoint, cache_dir=cache_dir)

    try:
        files = wanted.choose(names if commit else (), fetch)
        # by its name, so that the cache knows the revision when the hub cannot be reached
        folder = snapshot_download(
            path,
            revision=wanted.revision,
            endpoint=endpoint,
            cache_dir=cache_dir,
            allow_patterns=[glob.escape(name) for name in files],
        )
    except LocalEntryNotFoundError:
        raise
    except (EntryNotFoundError, ValueError) as error:
        raise ModelError(
            "model.path", f"{path}: {error}", ALLOWED, "choose another model or revision"
        ) from error
    return HubModel(folder, Path(folder).name)


def _model_files(
    path: str, names: Collection[str], fetch: Callable[[str], str], *, safety_checker: bool
) -> Collection[str]:
    if INDEX not in names:
        raise ModelError(
            "model.path",
            f"{path}: the hub's model has no {INDEX}",
            ALLOWED,
            "choose a model in the diffusers layout, or convert it and use a local folder",
        )
    index = json.loads(Path(fetch(INDEX)).read_text())
    return read_layout(path, index, names, safety_checker=safety_checker).files


def _from_cache(wanted: _Wanted, cache_dir: str | None, error: Exception) -> HubModel:
    path = wanted.path
    try:
        folder = snapshot_download(
            path,
            revision=wanted.revision,
            cache_dir=cache_dir,
            local_files_only=True,
            allow_patterns=wanted.cached,
            ignore_patterns=["*/*"],
        )
    except LocalEntryNotFoundError:
        raise ModelError(
            "model.path",
            f"{path}: no folder of this name here, not in the hub's cache, and the hub cannot be "
            f"reached: {error}",
            EXAMPLE,
            "give the folder of a model on this machine, or download it where there is a network "
            "(`hf download`) and set HF_HOME to that cache and HF_HUB_OFFLINE=1",
        ) from error
    return HubModel(folder, Path(folder).name)


def _not_found(path: str) -> ModelError:
    if path in MOVED:
        return ModelError(
            "model.path",
            f"{path}: it was taken off the hub",
            EXAMPLE,
            f"set model.path: {MOVED[path]}, its copy",
        )
    return ModelError(
        "model.path",
        f"{path}: the hub has no such model, or this machine's token cannot read it",
        EXAMPLE,
        "correct the id; for a private model set HF_TOKEN",
    )
