"""The contact sheet: samples from all over a run on one picture, each with its prompt."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from render_farm.errors import InputError
from render_farm.ledger.record import RunRecord
from render_farm.output.codecs import decode
from render_farm.output.layout import StoredSample
from render_farm.store.base import Store
from render_farm.views.results import pick_samples

TILE_PX = 160
MARGIN_PX = 12
CAPTION_LINES = 3
FONT_PX = 12
LINE_PX = 15
INK, PAPER, FAINT = (32, 32, 36), (250, 250, 248), (120, 120, 126)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet: PNG bytes and how many samples are on it."""

    png: bytes
    samples: int


def make_sheet(store: Store, record: RunRecord, count: int, columns: int = 8) -> Sheet:
    """A PNG of up to `count` done samples, evenly spread over the committed shards.

    Raises:
        InputError: nothing is done yet.
    """
    samples = list(pick_samples(store, record, count))
    if not samples:
        raise InputError.of(
            "RUN", store.uri, "a run with done samples", "wait until a shard is committed"
        )
    columns = min(columns, len(samples))
    cell_width = TILE_PX + MARGIN_PX
    cell_height = TILE_PX + LINE_PX * CAPTION_LINES + MARGIN_PX
    rows = -(-len(samples) // columns)
    title = f"{record.job.name}   {len(samples)} of {record.plan.samples} samples"
    sheet = Image.new(
        "RGB",
        (MARGIN_PX + columns * cell_width, 3 * MARGIN_PX + LINE_PX + rows * cell_height),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    draw.text((MARGIN_PX, MARGIN_PX), title, FAINT, ImageFont.load_default(FONT_PX + 2))
    for index, sample in enumerate(samples):
        left = MARGIN_PX + index % columns * cell_width
        top = 2 * MARGIN_PX + LINE_PX + index // columns * cell_height
        tile = _tile(sample)
        sheet.paste(tile, (left + (TILE_PX - tile.width) // 2, top))
        for line, text in enumerate(_wrapped(str(sample.record["prompt"]), draw, font)):
            place = (left, top + TILE_PX + 3 + line * LINE_PX)
            draw.text(place, text, INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return Sheet(buffer.getvalue(), len(samples))


def _tile(sample: StoredSample) -> Image.Image:
    """The picture fitted into a tile; small ones are enlarged without smoothing."""
    image = Image.fromarray(decode(sample.image, sample.key))
    scale = TILE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _wrapped(
    text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """The caption's lines; what does not fit is cut and marked so."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font) > TILE_PX:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    if len(lines) > CAPTION_LINES:
        lines = lines[:CAPTION_LINES]
        lines[-1] += " …"
    return lines
