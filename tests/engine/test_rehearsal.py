"""The rehearsal engine: cheap pictures that show when seeds or prompts are swapped."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest

from render_farm.engine.rehearsal import RehearsalSampler, draw
from render_farm.errors import RowError
from tests.engine.conftest import MakeRequest

NO_TORCH = """
import sys
from render_farm.engine.build import build_sampler
from render_farm.engine.source import ModelSource
from render_farm.engine.folder import check_folder, model_digest
from render_farm.engine.schedulers import NAMES, SCHEDULERS
build_sampler("rehearsal", ModelSource("nowhere"))
check_folder(sys.argv[1])
model_digest(sys.argv[1])
heavy = {"torch", "diffusers", "transformers", "accelerate", "ray", "boto3"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_neither_a_rehearsal_nor_checking_a_folder_imports_torch(sd15_folder):
    subprocess.run([sys.executable, "-c", NO_TORCH, str(sd15_folder)], check=True, timeout=60)


def test_a_picture_depends_on_seed_prompt_and_size_only():
    base = draw("a cat", 1, 64, 64)
    assert base.tobytes() == draw("a cat", 1, 64, 64).tobytes()
    assert base.shape == (64, 64, 3)
    assert base.dtype == np.uint8
    assert base.flags["C_CONTIGUOUS"]
    others = [draw("a cat", 2, 64, 64), draw("a dog", 1, 64, 64)]
    assert len({picture.tobytes() for picture in (base, *others)}) == 3


def test_the_bar_at_the_bottom_belongs_to_the_prompt_and_the_rest_to_the_seed():
    one, swapped = draw("a cat", 1, 64, 64), draw("a dog", 1, 64, 64)
    assert (one[:56] == swapped[:56]).all()
    assert (one[56:] != swapped[56:]).any()


@pytest.mark.parametrize("size", [(8, 8), (8, 8192), (72, 40), (512, 768)])
def test_every_size_is_drawn(size):
    assert draw("", 2**63 - 1, *size).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        ((8, 8), "d4b98576de3aa05a"),
        ((64, 64), "2315f9d67427e758"),
        ((72, 40), "34f92b073eec9c20"),
        ((8, 1024), "465672478c2a92be"),
        ((512, 768), "ef708bf88b0446b2"),
    ],
)
def test_pictures_are_those_of_every_release(size, digest):
    for _ in range(2):
        drawn = draw("a cat ☃", 2**63 - 1, *size)
        assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == digest


def test_pictures_look_like_something(request_of: MakeRequest):
    (answer,) = RehearsalSampler().render([request_of()], 1)
    assert answer.flags == ()
    assert answer.pixels.std() > 20


def test_the_answers_do_not_depend_on_the_batch(request_of: MakeRequest):
    requests = [request_of(row, width=64 + 8 * (row % 2)) for row in range(5)]
    sampler = RehearsalSampler()
    ones = {a.request.row: a.pixels.tobytes() for a in sampler.render(requests, 1)}
    fours = {a.request.row: a.pixels.tobytes() for a in sampler.render(requests[::-1], 4)}
    assert ones == fours


def test_a_picture_of_512_px_takes_about_a_millisecond():
    draw("warm", 1, 512, 512)
    began_s = time.process_time()
    for seed in range(20):
        draw("a cat", seed, 512, 512)
    assert (time.process_time() - began_s) / 20 < 0.005


def test_a_rehearsal_can_be_slowed_down(request_of: MakeRequest):
    slept: list[float] = []
    sampler = RehearsalSampler(seconds_per_image=0.5, sleep=slept.append)
    list(sampler.render([request_of(0), request_of(1)], 8))
    assert slept == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "error_type"),
    [
        ({"width": 60}, "bad_size"),
        ({"steps": 0}, "bad_steps"),
        ({"scheduler": "magic"}, "unknown_scheduler"),
        ({"guidance_scale": float("nan")}, "bad_guidance_scale"),
        ({"seed": -1}, "bad_seed"),
    ],
)
def test_rows_that_no_model_could_render_are_refused(
    request_of: MakeRequest, changes: dict[str, object], error_type: str
):
    with pytest.raises(RowError) as raised:
        RehearsalSampler().check(request_of(**changes))
    assert raised.value.error_type == error_type
