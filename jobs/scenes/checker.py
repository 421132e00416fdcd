"""The checker: what a picture shows, read from its pixels alone.

It never sees a prompt, so it cannot be lenient towards one. Background from the border, colours by
the nearest of the palette, shape by the best overlap with the eight shapes drawn over what was
found, size and place from the fitted radius and centre. What it cannot read it leaves as None.

A shape is drawn over what was found with the same area and centroid. Fitted into the bounding box
instead, a small star whose tips are a little soft comes out too small and overlaps a diamond best.
"""

import functools
from dataclasses import dataclass

import numpy as np

from jobs.scenes import world
from jobs.scenes.world import ATTRIBUTES, SIDE_PX, Mask, Pixels, Scene

MAX_COLOUR_DISTANCE = 45.0  # in RGB units; the nearest two of the palette are 85 apart
MIN_PLAIN_BORDER = 0.75  # of the border's pixels are of the background's colour
MIN_CONTRAST = 50.0  # between background and shape, in RGB units
MIN_AREA_PX = 60  # a small cross covers about 230
MIN_OVERLAP = 0.7  # intersection over union with the best shape
SIZE_CUT_PX = 17.0  # of the fitted radius; large is 17.7 and more
TILTS_RAD = (-0.07, 0.07)
TILTED_SHAPES = 3  # so many of the best shapes at rest are tried tilted as well


@dataclass(frozen=True, slots=True)
class Reading:
    """What the checker saw; an attribute that it could not read is None."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None
    background: str | None = None
    overlap: float = 0.0
    """Intersection over union with the best shape, 0…1."""

    @property
    def readable(self) -> bool:
        """Whether every attribute could be read."""
        return all(getattr(self, name) is not None for name in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class _Fit:
    shape: str
    overlap: float
    radius_px: float
    centre_px: tuple[float, float]


def read(pixels: Pixels) -> Reading:
    """Read a picture, uint8 [64, 64, 3]; a few milliseconds.

    Raises:
        ValueError: the array has another shape or dtype.
    """
    if pixels.shape != (SIDE_PX, SIDE_PX, 3) or pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; allowed: uint8 [64, 64, 3]"
        )
    colours = pixels.astype(np.float32)
    paper = _plain_border(colours)
    if paper is None:
        return Reading()
    background = _nearest_colour(paper)
    mask, ink = _separate(colours, paper)
    if mask is None or ink is None:
        return Reading(background=background)
    colour = _nearest_colour(ink)
    fit = _fit(mask)
    if fit.overlap < MIN_OVERLAP:
        return Reading(colour=colour, background=background, overlap=fit.overlap)
    size = "small" if fit.radius_px < SIZE_CUT_PX else "large"
    return Reading(
        size=size,
        colour=colour,
        shape=fit.shape,
        place=_place(fit.centre_px, size),
        background=background,
        overlap=fit.overlap,
    )


def compare(reading: Reading, scene: Scene) -> dict[str, bool]:
    """For each attribute, whether the reading agrees with the scene."""
    return {name: getattr(reading, name) == getattr(scene, name) for name in ATTRIBUTES}


def matches(reading: Reading, scene: Scene) -> bool:
    """Whether every attribute of the reading agrees with the scene."""
    return all(compare(reading, scene).values())


def _plain_border(colours: world.Floats) -> world.Floats | None:
    """The median colour of the border, float32 [3], if the border is plain enough to have one."""
    border = np.concatenate([colours[0], colours[-1], colours[1:-1, 0], colours[1:-1, -1]])
    paper: world.Floats = np.median(border, axis=0).astype(np.float32)
    plain = np.linalg.norm(border - paper, axis=1) <= MAX_COLOUR_DISTANCE
    return paper if plain.mean() >= MIN_PLAIN_BORDER else None


def _separate(
    colours: world.Floats, paper: world.Floats
) -> tuple[Mask | None, world.Floats | None]:
    """The shape's pixels, bool [64, 64], and its colour, float32 [3]; None where there is none."""
    distance = np.linalg.norm(colours - paper, axis=2)
    contrast = float(np.quantile(distance, 0.99))
    if contrast < MIN_CONTRAST:
        return None, None
    ink: world.Floats = np.median(colours[distance > 0.7 * contrast], axis=0).astype(np.float32)
    line = ink - paper
    mask: Mask = (colours - paper) @ line > 0.5 * float(line @ line)
    if mask.sum() < MIN_AREA_PX:
        return None, None
    return mask, ink


def _nearest_colour(colour: world.Floats) -> str | None:
    palette = np.array(list(world.PALETTE.values()), dtype=np.float32)
    distances = np.linalg.norm(palette - colour, axis=1)
    nearest = int(distances.argmin())
    return world.COLOURS[nearest] if distances[nearest] <= MAX_COLOUR_DISTANCE else None


@functools.cache
def _unit_area(shape: str) -> float:
    """The area of a shape of radius 1."""
    return float(world.stencil(shape).mean()) * (2 * world.STENCIL_REACH) ** 2


@functools.cache
def _unit_centroid(shape: str, rotation_rad: float) -> tuple[float, float]:
    """The centroid (x, y) of a shape of radius 1 around (0, 0)."""
    rows, columns = np.nonzero(world.stencil(shape))
    to_radii = 2 * world.STENCIL_REACH / world.STENCIL_CELLS
    x = (float(columns.mean()) + 0.5) * to_radii - world.STENCIL_REACH
    y = (float(rows.mean()) + 0.5) * to_radii - world.STENCIL_REACH
    cos, sin = float(np.cos(rotation_rad)), float(np.sin(rotation_rad))
    return cos * x - sin * y, sin * x + cos * y


def _fit(mask: Mask) -> _Fit:
    """The shape that overlaps best when drawn with the mask's area and centroid."""
    at_rest = [_fit_one(mask, shape, 0.0) for shape in world.SHAPES]
    at_rest.sort(key=lambda fit: fit.overlap, reverse=True)
    shapes = [fit.shape for fit in at_rest[:TILTED_SHAPES]]
    tilted = [_fit_one(mask, shape, tilt) for shape in shapes for tilt in TILTS_RAD]
    return max(at_rest[0], *tilted, key=lambda fit: fit.overlap)


def _fit_one(mask: Mask, shape: str, rotation_rad: float) -> _Fit:
    rows, columns = np.nonzero(mask)
    radius = float(np.sqrt(len(rows) / _unit_area(shape)))
    unit_x, unit_y = _unit_centroid(shape, rotation_rad)
    centre = (
        float(columns.mean()) + 0.5 - radius * unit_x,
        float(rows.mean()) + 0.5 - radius * unit_y,
    )
    drawn = world.coverage(shape, centre, radius, rotation_rad, samples=2) >= 0.5
    overlap = float(np.count_nonzero(mask & drawn) / np.count_nonzero(mask | drawn))
    return _Fit(shape, overlap, radius, centre)


def _place(centre_px: tuple[float, float], size: str) -> str:
    """The place whose direction the centre has moved to, by more than half the move."""
    half = world.MOVE_PX[size] / 2
    signs = [int(np.sign(c - SIDE_PX / 2)) * (abs(c - SIDE_PX / 2) > half) for c in centre_px]
    return next(name for name, direction in world.PLACES.items() if list(direction) == signs)
