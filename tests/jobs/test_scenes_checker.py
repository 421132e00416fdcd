"""The prompt-blind checker: right on drawn pictures, silent on anything else."""

import dataclasses
import time

import numpy as np
import pytest

from jobs.scenes import checker, world
from jobs.scenes.evaluate import EVERYTHING, score
from jobs.scenes.world import Pixels, Scene

STAR = Scene("large", "cyan", "star", "at the top left", "purple")


@pytest.mark.parametrize("from_held_out", [False, True])
def test_it_reads_freshly_drawn_pictures(from_held_out: bool) -> None:
    rng = np.random.default_rng(11)
    scenes = world.sample_scenes(500, rng, from_held_out=from_held_out)
    table = score(scenes, world.draw_all(scenes, rng))
    assert min(table.values()) >= 0.995
    assert set(table) == {*world.ATTRIBUTES, EVERYTHING}


@pytest.mark.parametrize(
    ("attribute", "drawn_instead"),
    [
        ("size", "small"),
        ("colour", "blue"),
        ("shape", "heart"),
        ("place", "at the left"),
        ("background", "pink"),
    ],
)
def test_it_notices_one_wrong_attribute_and_no_other(attribute: str, drawn_instead: str) -> None:
    drawn = dataclasses.replace(STAR, **{attribute: drawn_instead})
    reading = checker.read(world.draw(drawn, np.random.default_rng(0)))
    wrong = [name for name, right in checker.compare(reading, STAR).items() if not right]
    assert wrong == [attribute]
    assert not checker.matches(reading, STAR)
    assert checker.matches(reading, drawn)


def garbage(kind: str) -> Pixels:
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if kind == "smooth noise":
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return coarse.repeat(8, axis=0).repeat(8, axis=1)
    if kind == "stripes":
        picture = np.zeros((64, 64, 3), dtype=np.uint8)
        picture[::4] = 255
        return picture
    return np.full((64, 64, 3), {"black": 0, "grey": 128, "white": 255}[kind], dtype=np.uint8)


@pytest.mark.parametrize("kind", ["noise", "smooth noise", "stripes", "black", "grey", "white"])
def test_garbage_is_unreadable(kind: str) -> None:
    reading = checker.read(garbage(kind))
    assert not reading.readable
    assert reading.shape is None
    assert not any(checker.matches(reading, scene) for scene in world.all_scenes()[::97])


def test_a_speck_is_not_a_shape() -> None:
    picture = garbage("white")
    picture[30:34, 30:34] = 0
    assert checker.read(picture).shape is None


def test_two_shapes_in_one_picture_are_not_read_as_one() -> None:
    left = Scene("small", "red", "circle", "at the left", "white")
    right = dataclasses.replace(left, place="at the right")
    rng = np.random.default_rng(0)
    both = np.minimum(world.draw(left, rng, jitter=0), world.draw(right, rng, jitter=0))
    assert checker.read(both).shape is None


def test_a_colour_that_is_none_of_the_palette_is_not_read() -> None:
    picture = garbage("grey")
    picture[20:44, 20:44] = 255
    reading = checker.read(picture)
    assert reading.background is None
    assert reading.colour == "white"
    assert reading.shape == "square"


def test_pixels_of_another_shape_or_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed: uint8"):
        checker.read(np.zeros((32, 32, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="allowed: uint8"):
        checker.read(np.zeros((64, 64, 3), dtype=np.float32))  # type: ignore[arg-type]


def test_a_picture_takes_milliseconds() -> None:
    rng = np.random.default_rng(0)
    pictures = world.draw_all(world.sample_scenes(50, rng, from_held_out=True), rng)
    checker.read(pictures[0])  # the stencils are made at the first call
    spent_s = []
    for picture in pictures:
        start = time.process_time()
        checker.read(picture)
        spent_s.append(time.process_time() - start)
    assert np.median(spent_s) < 0.010


def test_as_many_images_as_scenes_are_scored() -> None:
    with pytest.raises(ValueError, match="zip"):
        score([STAR], [])
    with pytest.raises(ValueError, match="no scenes"):
        score([], [])
