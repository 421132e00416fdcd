"""The world: one shape on a plain background, the sentence that says so, and the picture of it.

Everything is a pure function of a `Scene` and a numpy generator. Some triples of shape, colour and
background never occur in training (`held_out`), so that quality is measured on combinations that a
model has not seen.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SIDE_PX = 64
SUPERSAMPLING = 4

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 48),
    "orange": (247, 140, 30),
    "yellow": (252, 220, 60),
    "green": (40, 160, 70),
    "cyan": (50, 205, 220),
    "blue": (45, 75, 210),
    "purple": (130, 50, 165),
    "pink": (250, 140, 190),
    "white": (245, 245, 245),
    "black": (22, 22, 26),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
SIZES = ("small", "large")
PLACES: dict[str, tuple[int, int]] = {  # name: the direction from the middle, (x, y) with y down
    "in the center": (0, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "at the left": (-1, 0),
    "at the right": (1, 0),
    "at the top left": (-1, -1),
    "at the top right": (1, -1),
    "at the bottom left": (-1, 1),
    "at the bottom right": (1, 1),
}
RADIUS_PX = {"small": 11.0, "large": 19.0}
MOVE_PX = {"small": 16.0, "large": 10.0}

# How much a drawn picture varies, each uniform in plus or minus.
COLOUR_JITTER = 5.0
RADIUS_JITTER = 0.07
PLACE_JITTER_PX = 1.2
ROTATION_JITTER_RAD = 0.1

STENCIL_REACH = 1.3  # the stencils cover (-1.3, 1.3)², in units of the radius
STENCIL_CELLS = 2048


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, in the words of its prompt."""

    size: str
    colour: str
    shape: str
    place: str
    background: str

    def __post_init__(self) -> None:
        allowed: dict[str, Sequence[str]] = {
            "size": SIZES,
            "colour": COLOURS,
            "shape": SHAPES,
            "place": tuple(PLACES),
            "background": COLOURS,
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}; allowed: {', '.join(values)}"
                )
        if self.colour == self.background:
            raise ValueError(f"colour and background are both {self.colour!r}: nothing to see")


ATTRIBUTES = ("size", "colour", "shape", "place", "background")

_SENTENCE = re.compile(
    rf"a (?P<size>{'|'.join(SIZES)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)}) "
    rf"(?P<place>{'|'.join(sorted(PLACES, key=len, reverse=True))}) "
    rf"on a (?P<background>{'|'.join(COLOURS)}) background"
)


def prompt(scene: Scene) -> str:
    """The sentence that describes a scene."""
    return (
        f"a {scene.size} {scene.colour} {scene.shape} {scene.place} "
        f"on a {scene.background} background"
    )


def parse(text: str) -> Scene:
    """The scene that a sentence describes; the inverse of `prompt`.

    Raises:
        ValueError: the text is not a sentence of this world.
    """
    found = _SENTENCE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is not a scene; expected 'a SIZE COLOUR SHAPE PLACE on a COLOUR background'"
        )
    return Scene(**found.groupdict())


def held_out(scene: Scene) -> bool:
    """Whether the scene's triple of shape, colour and background is kept out of training."""
    shape = SHAPES.index(scene.shape)
    colour = COLOURS.index(scene.colour)
    background = COLOURS.index(scene.background)
    return (shape + 3 * colour + 7 * background) % 10 == 0


@functools.cache
def all_scenes() -> tuple[Scene, ...]:
    """All 12,960 scenes of the world, in a fixed order."""
    product = itertools.product(SIZES, COLOURS, SHAPES, PLACES, COLOURS)
    return tuple(Scene(*words) for words in product if words[1] != words[4])


def sample_scenes(count: int, rng: np.random.Generator, *, from_held_out: bool) -> list[Scene]:
    """`count` scenes drawn uniformly, with repetition, from one side of the held-out split."""
    side = [scene for scene in all_scenes() if held_out(scene) == from_held_out]
    return [side[index] for index in rng.integers(len(side), size=count)]


def _outline(shape: str) -> npt.NDArray[np.float64]:
    """The corners of a shape that is not made of discs, float64 [N, 2] as (x, y), y down."""
    if shape == "square":
        return 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    if shape == "triangle":
        return np.array([(0, -1), (0.98, 0.78), (-0.98, 0.78)])
    if shape == "diamond":
        return np.array([(0, -1), (0.78, 0), (0, 1), (-0.78, 0)])
    if shape == "star":
        angle = np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)
    if shape == "cross":
        w = 0.36
        quarter = [(-w, -1.0), (w, -1.0), (w, -w)]
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.array([turn @ corner for turn in turns for corner in quarter])
    t = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, y / 16.5 - 0.1], axis=1)


@functools.cache
def stencil(shape: str) -> Mask:
    """The shape at rest as a table of cells, bool [2048, 2048] over (-1.3, 1.3)² in radii."""
    if shape in ("circle", "ring"):
        middles = (np.arange(STENCIL_CELLS) + 0.5) / STENCIL_CELLS * 2 - 1
        distance = np.hypot(*np.meshgrid(middles, middles)) * STENCIL_REACH
        return np.asarray((distance <= 1.0) & ((shape == "circle") | (distance > 0.55)))
    corners = (_outline(shape) / STENCIL_REACH + 1) / 2 * STENCIL_CELLS - 0.5
    canvas = Image.new("1", (STENCIL_CELLS, STENCIL_CELLS))
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners], fill=1)
    return np.asarray(canvas, dtype=np.bool_)


def coverage(
    shape: str, centre_px: tuple[float, float], radius_px: float, rotation_rad: float, samples: int
) -> Floats:
    """How much of each pixel a shape covers, float32 [64, 64] in 0…1, from samples² points."""
    x, y = centre_px
    reach = radius_px * STENCIL_REACH * 1.05
    left, right = max(0, int(x - reach)), min(SIDE_PX, int(x + reach) + 2)
    top, bottom = max(0, int(y - reach)), min(SIDE_PX, int(y + reach) + 2)
    points_x = (np.arange(left * samples, right * samples, dtype=np.float32) + 0.5) / samples - x
    points_y = (np.arange(top * samples, bottom * samples, dtype=np.float32) + 0.5) / samples - y
    # The points are turned back by the rotation and looked up in the shape at rest.
    scale = STENCIL_CELLS / (2 * STENCIL_REACH * radius_px)
    cos, sin = np.cos(rotation_rad) * scale, np.sin(rotation_rad) * scale
    columns = (cos * points_x + STENCIL_CELLS / 2) + (sin * points_y)[:, None]
    rows = (-sin * points_x + STENCIL_CELLS / 2) + (cos * points_y)[:, None]
    last = STENCIL_CELLS - 1  # the margin of a stencil is empty: a point beyond it stays outside
    cells_x = np.clip(columns, 0, last).astype(np.int32)
    cells_y = np.clip(rows, 0, last).astype(np.int32)
    inside = stencil(shape).ravel()[cells_y * STENCIL_CELLS + cells_x]
    blocks = inside.reshape(bottom - top, samples, right - left, samples)
    picture = np.zeros((SIDE_PX, SIDE_PX), dtype=np.float32)
    picture[top:bottom, left:right] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return picture


def draw(scene: Scene, rng: np.random.Generator, jitter: float = 1.0) -> Pixels:
    """A picture of a scene, uint8 [64, 64, 3], antialiased by 4×4 points a pixel.

    `jitter` scales how much colours, place, radius and rotation vary: 0 is the exact scene, 1 is
    what a model is trained on. The generator is advanced by the same amount either way.
    """
    if jitter < 0:
        raise ValueError(f"jitter is {jitter}; allowed: 0 and above")
    offsets = rng.uniform(-1, 1, size=10) * jitter
    radius = RADIUS_PX[scene.size] * (1 + RADIUS_JITTER * offsets[0])
    direction = np.array(PLACES[scene.place]) * MOVE_PX[scene.size]
    x, y = SIDE_PX / 2 + direction + PLACE_JITTER_PX * offsets[1:3]
    rotation = ROTATION_JITTER_RAD * offsets[3]
    alpha = coverage(scene.shape, (float(x), float(y)), radius, rotation, SUPERSAMPLING)
    ink = np.clip(np.array(PALETTE[scene.colour]) + COLOUR_JITTER * offsets[4:7], 0, 255)
    paper = np.clip(np.array(PALETTE[scene.background]) + COLOUR_JITTER * offsets[7:10], 0, 255)
    mixed = paper + alpha[..., None] * (ink - paper)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def draw_all(scenes: Sequence[Scene], rng: np.random.Generator) -> Pixels:
    """One jittered picture of each scene, uint8 [N, 64, 64, 3]; about 1 ms a picture."""
    pictures = np.empty((len(scenes), SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    for index, scene in enumerate(scenes):
        pictures[index] = draw(scene, rng)
    return pictures
