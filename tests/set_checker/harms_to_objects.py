"""Harms to receipts, manifest and whole objects of a committed run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

from tests.set_checker.forgery import Forger


def receipt_gone(forger: Forger) -> None:
    (forger.folder / "receipts/000001.json").unlink()


def receipt_of_garbage(forger: Forger) -> None:
    (forger.folder / "receipts/000001.json").write_bytes(b'{"version": 1, "shard"')


def receipt_of_another_shard(forger: Forger) -> None:
    shutil.copy(forger.folder / "receipts/000000.json", forger.folder / "receipts/000001.json")


def receipt_beyond_the_plan(forger: Forger) -> None:
    shutil.copy(forger.folder / "receipts/000001.json", forger.folder / "receipts/000003.json")


def receipt_of_other_rows(forger: Forger) -> None:
    forger.write_receipt(first_row=5)


def receipt_that_hides_the_quarantine(forger: Forger) -> None:
    forger.write_receipt(counts=forger.receipt["counts"] | {"done": 4, "quarantined": 0})


def receipt_with_one_sample_less(forger: Forger) -> None:
    forger.write_receipt(samples={"done": 5, "filtered": 0})


def receipt_without_its_data(forger: Forger) -> None:
    rejected = [item for item in forger.receipt["objects"] if item["key"].startswith("rejected")]
    forger.write_receipt(objects=rejected)


def receipt_that_names_another_shards_objects(forger: Forger) -> None:
    forger.write_receipt(objects=replace(forger, shard=0).receipt["objects"])


def cancelled_and_its_data_kept(forger: Forger) -> None:
    counts = {"done": 0, "filtered": 0, "quarantined": 0, "cancelled": 4}
    forger.write_receipt(kind="cancelled", counts=counts, samples={"done": 0, "filtered": 0})


def manifest_that_lies(forger: Forger) -> None:
    path = forger.folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["rows"]["done"] += 1
    path.write_text(json.dumps(document))


def manifest_without_an_object(forger: Forger) -> None:
    path = forger.folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["objects"].pop()
    path.write_text(json.dumps(document))


def data_object_gone(forger: Forger) -> None:
    (forger.folder / forger.main_key()).unlink()


def rejected_object_gone(forger: Forger) -> None:
    (forger.folder / forger.key(".parquet", "rejected")).unlink()


def data_object_cut_short(forger: Forger) -> None:
    path = forger.folder / forger.main_key()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def data_object_of_another_shard(forger: Forger) -> None:
    source = forger.folder / replace(forger, shard=0).main_key()
    shutil.copy(source, forger.folder / forger.main_key())


def data_object_of_another_shard_vouched_for(forger: Forger) -> None:
    source = forger.folder / replace(forger, shard=0).main_key()
    forger.vouch(forger.main_key(), source.read_bytes())


def data_copied_beyond_the_plan(forger: Forger) -> None:
    key = forger.main_key()
    shutil.copy(forger.folder / key, forger.folder / key.replace("/000001-", "/000077-"))


def stranger_among_the_data(forger: Forger) -> None:
    (forger.folder / "data/more.tar").write_bytes(b"left here")


def winners_object_that_nobody_names(forger: Forger) -> None:
    stem = f"rejected/000000-{replace(forger, shard=0).receipt['attempt']}.parquet"
    (forger.folder / stem).write_bytes(b"left here")
