"""Models from the hub: only what is needed, at one commit, and every failure with its fix."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from render_farm.engine.folder import check_folder, model_digest
from render_farm.engine.hub import is_hub_id, resolve_hub, resolve_lora
from render_farm.engine.loras import check_lora
from render_farm.engine.model import ModelSource, load_pipeline
from render_farm.errors import ModelError
from tests.engine.hub_server import COMMIT, Hub, serving
from tests.models.folders import make_custom_code, make_lora, make_pickle_only

RESOLVE = """
import sys
from render_farm.engine.hub import resolve_hub
print(resolve_hub(sys.argv[1], endpoint=sys.argv[2], cache_dir=sys.argv[3]).path)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def big(hub: Hub, sd15_folder: Path, tmp_path: Path) -> str:
    """A model with everything that the real repository has beside what is loaded."""
    folder = tmp_path / "big"
    shutil.copytree(sd15_folder, folder)
    for extra in (
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "README.md",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "scripts/convert.py",
    ):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"unwanted")
    hub.models["maker/big"] = folder
    hub.sent.clear()
    return "maker/big"


def test_only_what_is_loaded_is_downloaded_and_the_commit_is_named(hub, big, cache, sd15_folder):
    model = resolve_hub(big, endpoint=hub.url, cache_dir=cache)
    assert model.commit == COMMIT
    assert sorted(set(hub.sent)) == list(check_folder(sd15_folder).layout.files)


def test_a_snapshot_of_links_into_the_cache_passes_the_checks_and_loads(
    hub, big, cache, sd15_folder
):
    model = resolve_hub(big, COMMIT, endpoint=hub.url, cache_dir=cache)
    assert any(path.is_symlink() for path in Path(model.path).rglob("*"))
    assert model_digest(model.path) == model_digest(sd15_folder)
    source = ModelSource(big, device="cpu", endpoint=hub.url, cache_dir=cache)
    assert type(load_pipeline(source).pipeline).__name__ == "StableDiffusionPipeline"


def test_processes_of_a_node_that_come_together_download_each_file_once(
    hub, big, cache, sd15_folder
):
    command = [sys.executable, "-c", RESOLVE, big, hub.url, cache]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    (first,), (second,) = (each.communicate(timeout=120)[0].splitlines() for each in processes)
    assert first == second
    assert model_digest(first) == model_digest(sd15_folder)
    assert Counter(hub.sent) == dict.fromkeys(check_folder(sd15_folder).layout.files, 1)


def test_what_is_in_the_cache_is_used_when_the_hub_cannot_be_reached(hub, big, cache):
    online = resolve_hub(big, endpoint=hub.url, cache_dir=cache)
    for revision in (None, COMMIT):
        offline = resolve_hub(big, revision, endpoint=dead_address(), cache_dir=cache)
        assert offline == online


def test_without_a_network_the_fix_is_a_local_folder(cache):
    with pytest.raises(ModelError) as raised:
        resolve_hub("maker/big", endpoint=dead_address(), cache_dir=cache)
    assert "cannot be reached" in raised.value.problem.value
    assert "folder" in raised.value.problem.fix
    assert "HF_HUB_OFFLINE" in raised.value.problem.fix


def test_a_cache_that_cannot_be_written_is_named(hub, big, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be stored on this machine"):
        resolve_hub(big, endpoint=hub.url, cache_dir=str(tmp_path / "file"))


@pytest.mark.parametrize("answer", [(404, "RepoNotFound"), (401, "RepoNotFound"), (410, "")])
def test_the_old_id_of_stable_diffusion_names_the_new_one(hub, cache, answer):
    hub.errors["runwayml/stable-diffusion-v1-5"] = answer
    with pytest.raises(ModelError) as raised:
        resolve_hub("runwayml/stable-diffusion-v1-5", endpoint=hub.url, cache_dir=cache)
    assert raised.value.problem.field == "model.path"
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in raised.value.problem.fix


def test_the_old_id_works_where_the_hub_still_has_it(hub, cache, sd15_folder):
    hub.errors.pop("runwayml/stable-diffusion-v1-5", None)
    hub.models["runwayml/stable-diffusion-v1-5"] = sd15_folder
    model = resolve_hub("runwayml/stable-diffusion-v1-5", endpoint=hub.url, cache_dir=cache)
    assert model.commit == COMMIT
    del hub.models["runwayml/stable-diffusion-v1-5"]


def test_an_unknown_model_an_unknown_revision_and_a_gated_one_are_told_apart(hub, big, cache):
    with pytest.raises(ModelError, match="the hub has no such model"):
        resolve_hub("maker/none", endpoint=hub.url, cache_dir=cache)
    with pytest.raises(ModelError, match=r"model\.revision: v9"):
        resolve_hub(big, "v9", endpoint=hub.url, cache_dir=cache)
    hub.errors["maker/gated"] = (403, "GatedRepo")
    with pytest.raises(ModelError, match="accept the conditions"):
        resolve_hub("maker/gated", endpoint=hub.url, cache_dir=cache)
    hub.errors["maker/down"] = (400, "")
    with pytest.raises(ModelError, match="the hub answered 400"):
        resolve_hub("maker/down", endpoint=hub.url, cache_dir=cache)


def test_a_model_that_would_be_refused_is_refused_before_its_weights_are_downloaded(
    hub, cache, sd15_folder, tmp_path
):
    hub.models["maker/pickle"] = make_pickle_only(tmp_path / "pickle", sd15_folder)
    hub.models["maker/custom"] = make_custom_code(tmp_path / "custom", sd15_folder)
    hub.sent.clear()
    with pytest.raises(ModelError, match="is a pickle"):
        resolve_hub("maker/pickle", endpoint=hub.url, cache_dir=cache)
    with pytest.raises(ModelError, match="never run"):
        resolve_hub("maker/custom", endpoint=hub.url, cache_dir=cache)
    assert set(hub.sent) == {"model_index.json"}


@pytest.mark.parametrize(
    ("path", "is_id"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", True),
        ("runwayml/stable-diffusion-v1-5", True),
        ("./models/sd15", False),
        ("../sd15", False),
        ("/models/sd15", False),
        ("s3://bucket/sd15", False),
        ("sd15", False),
        ("a/b/c", False),
    ],
)
def test_a_hub_id_is_an_owner_and_a_name(path, is_id):
    assert is_hub_id(path) is is_id


def dead_address() -> str:
    """An address on this machine at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def lora(hub: Hub, sd15_folder: Path, tmp_path: Path) -> str:
    """A repository with a LoRA at its root and other things beside and below it."""
    folder = tmp_path / "lora"
    make_lora(folder / "style.safetensors", sd15_folder)
    for extra in ("README.md", "style.bin", "checkpoints/style.safetensors"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"unwanted")
    hub.models["maker/lora"] = folder
    hub.sent.clear()
    return "maker/lora"


def test_of_a_loras_repository_the_one_file_is_downloaded_at_one_commit(hub, lora, cache):
    found = resolve_lora(lora, endpoint=hub.url, cache_dir=cache)
    assert found.commit == COMMIT
    assert hub.sent == ["style.safetensors"]
    assert check_lora(Path(found.path) / "style.safetensors")
    pinned = resolve_lora(f"{lora}@{COMMIT}", endpoint=dead_address(), cache_dir=cache)
    assert pinned == found
    assert resolve_lora(lora, endpoint=dead_address(), cache_dir=cache) == found


def test_what_is_wrong_with_a_loras_repository_is_the_matter_of_model_loras(hub, lora, cache):
    hub.errors["maker/gated-lora"] = (403, "GatedRepo")
    (hub.models[lora] / "second.safetensors").write_bytes(b"")
    for path, endpoint, message in (
        (lora, hub.url, "second.safetensors, style.safetensors"),
        ("maker/none", hub.url, "no such model"),
        (f"{lora}@v9", hub.url, "v9"),
        ("maker/gated-lora", hub.url, "conditions"),
        ("maker/other", dead_address(), "cannot be reached"),
    ):
        with pytest.raises(ModelError, match=message) as raised:
            resolve_lora(path, endpoint=endpoint, cache_dir=cache)
        assert raised.value.problem.field == "model.loras"
        assert "model." not in raised.value.problem.fix
    assert hub.sent == []


def test_the_safety_checker_is_downloaded_only_where_it_is_asked_for(
    hub, big, cache, sd15_folder, sdxl_folder
):
    model = resolve_hub(big, endpoint=hub.url, cache_dir=cache)
    assert not (Path(model.path) / "safety_checker").exists()
    model = resolve_hub(big, endpoint=hub.url, cache_dir=cache, safety_checker=True)
    found = check_folder(model.path, safety_checker=True).layout
    assert found == check_folder(sd15_folder, safety_checker=True).layout
    hub.models["maker/xl"] = sdxl_folder
    with pytest.raises(ModelError) as raised:
        resolve_hub("maker/xl", endpoint=hub.url, cache_dir=cache, safety_checker=True)
    assert raised.value.problem.field == "model.safety_checker"
