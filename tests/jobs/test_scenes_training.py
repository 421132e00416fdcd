"""The parts of the training: optimizer, autoencoder, tokenizer, prompts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.scenes import optim, prompts, text, vae, world


def test_orthogonalising_brings_all_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 72), (2, 64, 16)):
        values = torch.linalg.svdvals(optim.orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_the_optimizer_fits_a_line_and_a_convolution() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    inputs = torch.randn(64, 2, 3, 3)
    targets = inputs.mean(dim=(2, 3))
    optimizer = optim.Optimizer(model.named_parameters(), 200, optim.warm_cosine)
    for _ in range(200):
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


@pytest.mark.parametrize(
    "schedule", [optim.warm_cosine, optim.warm_linear, optim.cut_cosine, optim.cut_linear]
)
def test_a_schedule_warms_up_falls_and_ends_at_zero(schedule: optim.Schedule) -> None:
    assert schedule(0.0) == 0
    factors = [schedule(done) for done in np.linspace(0.05, 1.0, 96)]
    assert factors[0] > 0.9
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0)


def test_an_average_follows_its_module() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = optim.Average(module, decay=0.5)
    before = module.weight.item()
    with torch.no_grad():
        module.weight.add_(1.0)
    for _ in range(20):
        average.update(module)
    assert average.module.weight.item() == pytest.approx(before + 1, abs=1e-3)


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(vae.to_pixels(vae.to_tensor(pixels)), pixels)


def test_whitening_changes_the_latents_and_not_the_pictures() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pixels = world.draw_all(world.sample_scenes(32, rng, from_held_out=False), rng)
    model = vae.new_vae().requires_grad_(False).eval()
    before = model.decode(vae.encode(model, pixels)).sample
    vae.whiten(model, vae.encode(model, pixels))
    latents = vae.encode(model, pixels)
    assert torch.allclose(model.decode(latents).sample, before, atol=1e-3)
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(torch.cov(flat), torch.eye(4), atol=1e-2)
    assert torch.allclose(flat.mean(dim=1), torch.zeros(4), atol=1e-2)


def test_a_new_tokenizer_has_one_token_a_word_and_bytes_for_the_rest() -> None:
    tokenizer = text.new_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 3 for word in text.grammar())
    assert tokenizer.unk_token_id not in tokenizer("ÿ ж, 7?", add_special_tokens=False).input_ids


def test_a_new_tokenizer_is_the_same_in_every_process() -> None:
    code = "from jobs.scenes.text import *; print(new_tokenizer().backend_tokenizer.to_str())"
    root = Path(text.__file__).parents[2]
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        for hash_seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert b"background" in runs[0].stdout


def test_the_prompts_of_a_file_are_the_labels_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "first.parquet", tmp_path / "again.parquet"]
    for file in files:
        arguments = ["prompts", "--out", str(file), "--rows", "70", "--row-group", "32"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--held-out"])
        prompts.main()
    assert files[0].read_bytes() == files[1].read_bytes()
    assert pq.ParquetFile(files[0]).num_row_groups == 3
    rows = pq.read_table(files[0]).to_pylist()
    assert [row["key"] for row in rows[:2]] == ["scene-000000", "scene-000001"]
    for row in rows:
        scene = world.parse(row["caption"])
        assert world.held_out(scene)
        assert all(row[name] == getattr(scene, name) for name in world.ATTRIBUTES)
