"""The committed model: what is in its folder, and that it draws what it is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from jobs.scenes import evaluate, text, world

FOLDER = Path(evaluate.__file__).parent / "model"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    return evaluate.load(FOLDER)


def test_the_folder_is_small_and_its_weights_are_safetensors() -> None:
    assert 0 < sum(path.stat().st_size for path in FILES) <= 8_000_000
    assert {path.suffix for path in FILES} == {".json", ".safetensors"}


def test_the_folder_says_nothing_about_where_it_was_made() -> None:
    for path in FILES:
        if path.suffix == ".json" and path.parent.name != "tokenizer":
            content = path.read_text(encoding="utf-8")
            assert "_name_or_path" not in content
            assert "/" not in content


def test_the_scheduler_is_stable_diffusions_own() -> None:
    scheduler = PNDMScheduler.from_pretrained(FOLDER / "scheduler")
    config = scheduler.config
    assert (config.skip_prk_steps, config.steps_offset, config.set_alpha_to_one) == (True, 1, False)
    assert (config.beta_schedule, config.beta_start, config.beta_end) == (
        "scaled_linear",
        0.00085,
        0.012,
    )


def test_a_scheduler_made_from_the_folders_own_does_not_clip_latents() -> None:
    scheduler = DDIMScheduler.from_config(
        PNDMScheduler.from_pretrained(FOLDER / "scheduler").config
    )
    assert scheduler.config.clip_sample is False


def test_the_saved_tokenizer_knows_every_word_as_one_token() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    words = text.grammar()
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)
    assert len({tuple(tokenizer(word).input_ids) for word in words}) == len(words)
    assert tokenizer.model_max_length == 16
    longest = text.tokenize(tokenizer, [world.prompt(s) for s in world.all_scenes()[::53]])
    assert longest.shape[1] == 16
    assert (longest[:, -1] == tokenizer.eos_token_id).all()  # nothing was cut off


def test_text_from_elsewhere_becomes_bytes() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    ids = tokenizer("zoé 漢字, ok!", add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in ids
    assert "漢字" in tokenizer.decode(ids).replace(" ", "")


def test_it_draws_held_out_prompts_right(pipeline: StableDiffusionPipeline) -> None:
    scenes = world.sample_scenes(8, np.random.default_rng(5), from_held_out=True)
    images = evaluate.render(pipeline, scenes, seed=0, sampling=evaluate.Sampling(batch_size=8))
    table = evaluate.score(scenes, images)
    assert table["background"] == 1
    assert table[evaluate.EVERYTHING] >= 6 / 8


def test_the_same_seed_gives_the_same_picture(pipeline: StableDiffusionPipeline) -> None:
    scenes = world.sample_scenes(2, np.random.default_rng(5), from_held_out=True)
    sampling = evaluate.Sampling(steps=2)
    first, again, other = (evaluate.render(pipeline, scenes, seed, sampling) for seed in (0, 0, 9))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_prompt_in_unknown_words_still_renders(pipeline: StableDiffusionPipeline) -> None:
    image = pipeline(
        "Ein Kätzchen im Hut! 🐈",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert image.shape == (1, 64, 64, 3)
    assert np.isfinite(image).all()


def test_the_autoencoder_keeps_what_the_checker_reads(pipeline: StableDiffusionPipeline) -> None:
    table = evaluate.vae_ceiling(pipeline.vae, pictures=64, seed=3)
    assert table["shape"] >= 0.93
    assert table["background"] >= 0.98
