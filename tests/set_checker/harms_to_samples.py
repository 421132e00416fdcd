"""Harms to single samples and rows, by somebody who makes the receipt agree with them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable

from PIL import Image

from tests.set_checker.forgery import Forger, Sample, members, tar_of_members

SAMPLES = 2  # of each row


def sample_gone(forger: Forger) -> None:
    forger.rewrite_samples(lambda samples: samples[1:])


def sample_twice(forger: Forger) -> None:
    forger.rewrite_samples(lambda samples: [*samples, samples[0]])


def pictures_swapped(forger: Forger) -> None:
    def swap(samples: list[Sample]) -> list[Sample]:
        samples[0].image, samples[3].image = samples[3].image, samples[0].image
        return samples

    forger.rewrite_samples(swap)


def sample_under_anothers_name(forger: Forger) -> None:
    edit_first(forger, key="000000009_00")


def sample_of_another_shards_row(forger: Forger) -> None:
    edit_first(forger, row=0, key="000000000_00")


def sample_beyond_the_planned(forger: Forger) -> None:
    edit_first(forger, sample=SAMPLES, key=f"000000004_{SAMPLES:02d}")


def sample_of_another_attempt(forger: Forger) -> None:
    if forger.container == "files":  # its pictures lie under the attempt's name
        [old] = forger.folder.glob("data/000001-*/")
        shutil.copytree(old, old.with_name("000001-0other"))
    edit_first(forger, attempt="0other")


def picture_altered(forger: Forger) -> None:
    def alter(samples: list[Sample]) -> list[Sample]:
        samples[0].image = samples[0].image[:-1] + b"?"
        return samples

    forger.rewrite_samples(alter)


def picture_empty(forger: Forger) -> None:
    def empty(samples: list[Sample]) -> list[Sample]:
        samples[0].image = b""
        return samples

    forger.rewrite_samples(empty)


def edit_first(forger: Forger, **columns: object) -> None:
    def edit(samples: list[Sample]) -> list[Sample]:
        samples[0].columns = samples[0].columns | columns
        return samples

    forger.rewrite_samples(edit)


def edit_rejected(forger: Forger, **columns: object) -> None:
    key = forger.key(".parquet", "rejected")
    forger.rewrite_lines(key, lambda lines: [line | columns for line in lines])


def quarantined_row_gone(forger: Forger) -> None:
    forger.rewrite_lines(forger.key(".parquet", "rejected"), lambda lines: lines[1:])


def quarantined_row_twice(forger: Forger) -> None:
    forger.rewrite_lines(forger.key(".parquet", "rejected"), lambda lines: lines * 2)


def quarantined_row_of_another_shard(forger: Forger) -> None:
    edit_rejected(forger, row=0)


def quarantined_row_that_was_rendered(forger: Forger) -> None:
    edit_rejected(forger, row=4)


def filtered_sample_that_is_done(forger: Forger) -> None:
    def add(lines: list[dict]) -> list[dict]:
        return [*lines, lines[0] | {"row": 4, "sample": 0, "status": "filtered", "id": "row-4"}]

    forger.rewrite_lines(forger.key(".parquet", "rejected"), add)


def picture_that_nobody_names(forger: Forger) -> None:
    [folder] = forger.folder.glob("data/000001-*/")
    (folder / "000000008_00.png").write_bytes(b"left here")


def member_gone(forger: Forger) -> None:
    rewrite_members(forger, lambda content: content[1:])


def member_twice(forger: Forger) -> None:
    rewrite_members(forger, lambda content: [content[0], *content])


def sample_twice_in_the_tar_alone(forger: Forger) -> None:
    rewrite_members(forger, lambda content: [*content, *content[:3]])


def texts_swapped(forger: Forger) -> None:
    def swap(content: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        first, other = content[2], content[-1]
        content[2], content[-1] = (first[0], other[1]), (other[0], first[1])
        return content

    rewrite_members(forger, swap)


def metadata_beside_the_tar_with_a_line_less(forger: Forger) -> None:
    forger.rewrite_lines(forger.key(".parquet"), lambda lines: lines[1:])


def metadata_beside_the_tar_with_a_line_twice(forger: Forger) -> None:
    forger.rewrite_lines(forger.key(".parquet"), lambda lines: [*lines, lines[0]])


def metadata_beside_the_tar_gone(forger: Forger) -> None:
    wanted = forger.key(".parquet")
    kept = [item for item in forger.receipt["objects"] if item["key"] != wanted]
    forger.write_receipt(objects=kept)


def rewrite_members(
    forger: Forger, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]
) -> None:
    key = forger.main_key()
    content = change(members((forger.folder / key).read_bytes()))
    forger.vouch(key, tar_of_members(content))


# What follows agrees with itself: only the input, or the pixels, tell.


def id_of_another(forger: Forger) -> None:
    edit_first(forger, id="row-9")


def id_forgotten(forger: Forger) -> None:
    edit_first(forger, id=None)


def prompt_of_another(forger: Forger) -> None:
    edit_first(forger, prompt="a picture of number 9")


def rows_swapped(forger: Forger) -> None:
    """The pictures and prompts of two rows under each other's name: a reader off by one."""

    def swap(samples: list[Sample]) -> list[Sample]:
        a, b = samples[0], samples[2]
        names = [{name: each.columns[name] for name in ("row", "key")} for each in (a, b)]
        a.columns, b.columns = b.columns | names[0], a.columns | names[1]
        a.image, b.image = b.image, a.image
        return samples

    forger.rewrite_samples(swap)


def quarantined_with_the_prompt_of_another(forger: Forger) -> None:
    edit_rejected(forger, prompt="a picture of number 9")


def picture_of_another_size(forger: Forger) -> None:
    repaint_first(forger, encoded("PNG", (8, 8)))


def picture_in_another_format(forger: Forger) -> None:
    repaint_first(forger, encoded("WEBP", (16, 8)))


def picture_that_is_none(forger: Forger) -> None:
    repaint_first(forger, b"\x89PNG\r\n\x1a\n and so on")


def picture_cut_short(forger: Forger) -> None:
    repaint_first(forger, encoded("PNG", (16, 8))[:50])


def encoded(image_format: str, size: tuple[int, int]) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(sink, image_format)
    return sink.getvalue()


def repaint_first(forger: Forger, image: bytes) -> None:
    def repaint(samples: list[Sample]) -> list[Sample]:
        samples[0].repaint(image)
        return samples

    forger.rewrite_samples(repaint)
