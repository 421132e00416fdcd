"""Every way to harm a committed run is seen, under its right name, by the checker and `verify`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

import pytest

from tests.set_checker import SetVerdict
from tests.set_checker import harms_to_objects as objects
from tests.set_checker import harms_to_samples as samples
from tests.set_checker.conftest import CONTAINERS, ROWS, SAMPLES, Made
from tests.set_checker.forgery import Forger

KINDS = ("lost", "duplicated", "unexpected", "corrupt")
Harm = Callable[[Forger], object]

ANYWHERE: list[tuple[Harm, set[str]]] = [
    (objects.receipt_gone, {"lost", "corrupt"}),
    (objects.receipt_of_garbage, {"lost", "corrupt"}),
    (objects.receipt_of_another_shard, {"lost", "corrupt"}),
    (objects.receipt_beyond_the_plan, {"unexpected"}),
    (objects.receipt_of_other_rows, {"corrupt"}),
    (objects.receipt_that_hides_the_quarantine, {"corrupt"}),
    (objects.receipt_with_one_sample_less, {"corrupt"}),
    (objects.receipt_without_its_data, {"lost", "corrupt", "unexpected"}),
    (objects.receipt_that_names_another_shards_objects, set(KINDS)),
    (objects.cancelled_and_its_data_kept, {"duplicated", "unexpected", "corrupt"}),
    (objects.manifest_that_lies, {"corrupt"}),
    (objects.manifest_without_an_object, {"corrupt"}),
    (objects.data_object_gone, {"lost", "corrupt"}),
    (objects.rejected_object_gone, {"lost", "corrupt"}),
    (objects.data_object_cut_short, {"lost", "corrupt"}),
    (objects.data_object_of_another_shard, set(KINDS)),
    (objects.data_object_of_another_shard_vouched_for, set(KINDS)),
    (objects.data_copied_beyond_the_plan, {"unexpected"}),
    (objects.stranger_among_the_data, {"unexpected"}),
    (objects.winners_object_that_nobody_names, {"unexpected"}),
    (samples.sample_gone, {"lost", "corrupt"}),
    (samples.sample_twice, {"duplicated"}),
    (samples.pictures_swapped, {"corrupt"}),
    (samples.sample_under_anothers_name, {"corrupt"}),
    (samples.sample_of_another_shards_row, set(KINDS)),
    (samples.sample_beyond_the_planned, {"lost", "unexpected"}),
    (samples.sample_of_another_attempt, {"unexpected"}),
    (samples.picture_altered, {"corrupt"}),
    (samples.picture_empty, {"lost", "corrupt"}),
    (samples.quarantined_row_gone, {"lost", "corrupt"}),
    (samples.quarantined_row_twice, {"duplicated"}),
    (samples.quarantined_row_of_another_shard, {"lost", "unexpected", "duplicated"}),
    (samples.quarantined_row_that_was_rendered, {"lost", "duplicated", "corrupt"}),
    (samples.filtered_sample_that_is_done, {"duplicated", "corrupt"}),
]


# Without its line of metadata a picture in a file of its own is one that nobody names.
LEAVES_PICTURES_BEHIND = {
    objects.data_object_gone,
    objects.data_object_cut_short,
    samples.sample_gone,
    samples.sample_under_anothers_name,
}


IN_ONE_CONTAINER: list[tuple[str, Harm, set[str]]] = [
    ("files", samples.picture_that_nobody_names, {"unexpected"}),
    ("webdataset", samples.member_gone, {"lost", "corrupt"}),
    ("webdataset", samples.member_twice, {"corrupt"}),
    ("webdataset", samples.sample_twice_in_the_tar_alone, {"duplicated"}),
    ("webdataset", samples.texts_swapped, {"lost", "corrupt"}),
    ("webdataset", samples.metadata_beside_the_tar_with_a_line_less, {"corrupt"}),
    ("webdataset", samples.metadata_beside_the_tar_with_a_line_twice, {"duplicated"}),
    ("webdataset", samples.metadata_beside_the_tar_gone, {"corrupt", "unexpected"}),
]


ONLY_INPUT_OR_PIXELS_TELL: list[Harm] = [
    samples.id_of_another,
    samples.id_forgotten,
    samples.prompt_of_another,
    samples.rows_swapped,
    samples.quarantined_with_the_prompt_of_another,
    samples.picture_of_another_size,
    samples.picture_in_another_format,
    samples.picture_that_is_none,
    samples.picture_cut_short,
]


def found(verdict: SetVerdict) -> set[str]:
    return {kind for kind in KINDS if getattr(verdict, kind)}


@pytest.fixture
def forger(made: Made) -> Forger:
    return Forger(made.folder, made.container)


def test_an_honest_run_is_whole(made: Made) -> None:
    verdict = made.check()
    assert verdict == SetVerdict(ROWS, ROWS - 1, 0, 1, 0, (ROWS - 1) * SAMPLES, [], [], [], [], 0)
    assert verdict.whole
    assert made.verify().ok


@pytest.mark.parametrize(("harm", "kinds"), ANYWHERE, ids=[harm.__name__ for harm, _ in ANYWHERE])
def test_a_harm_is_seen_under_its_right_name(
    made: Made, forger: Forger, harm: Harm, kinds: set[str]
) -> None:
    harm(forger)
    verdict = made.check()
    if made.container == "files" and harm in LEAVES_PICTURES_BEHIND:
        kinds = kinds | {"unexpected"}
    assert not verdict.whole
    assert found(verdict) == kinds, verdict
    assert not made.verify().ok


@pytest.mark.parametrize(
    ("honest", "harm", "kinds"),
    IN_ONE_CONTAINER,
    ids=[harm.__name__ for _, harm, _ in IN_ONE_CONTAINER],
    indirect=["honest"],
)
def test_a_harm_that_one_container_can_take_is_seen(
    made: Made, forger: Forger, harm: Harm, kinds: set[str]
) -> None:
    harm(forger)
    verdict = made.check()
    assert found(verdict) == kinds, verdict
    assert not made.verify().ok


@pytest.mark.parametrize("harm", ONLY_INPUT_OR_PIXELS_TELL)
def test_what_agrees_with_itself_is_held_against_the_input_and_the_pixels(
    made: Made, forger: Forger, harm: Harm
) -> None:
    """`verify` believes what has its digest; of the input it asks only for a replay."""
    harm(forger)
    verdict = made.check()
    assert found(verdict) == {"corrupt"}, verdict


def test_the_harms_are_many(figure: Callable[[str, object], None]) -> None:
    both = len(ANYWHERE) * len(CONTAINERS) + len(IN_ONE_CONTAINER)
    alone = len(ONLY_INPUT_OR_PIXELS_TELL) * len(CONTAINERS)
    figure("harms to a committed run that set checker and verify see", both)
    figure("harms that agree with themselves, and the set checker sees", alone)
    assert both >= 100


def test_a_byte_flipped_in_any_object_is_corrupt(made: Made) -> None:
    chance = random.Random(made.container)
    objects = [path for path in sorted(made.folder.glob("*/*.*")) if path.is_file()]
    pictures = sorted(made.folder.glob("data/*/*.png"))
    for path in [*(p for p in objects if p.parent.name in {"data", "rejected"}), *pictures[:4]]:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert "corrupt" in found(made.check()), path
        assert not made.verify().ok
        path.write_bytes(whole)
    assert made.check().whole


def test_what_losing_attempts_left_is_counted_and_no_defect(made: Made) -> None:
    for key in ("data/000001-0dead.tar", "data/000000-0dead/000000000_00.png"):
        path = made.folder / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    source = made.folder / Forger(made.folder, made.container).main_key()
    shutil.copy(source, made.folder / f"data/000002-0dead{source.suffix}")
    verdict = made.check()
    assert verdict.whole
    assert verdict.orphans == made.verify().orphans == 3
