"""The check of a whole run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tests.set_checker.blobs import Blobs
from tests.set_checker.claims import AllClaims, ShardClaims
from tests.set_checker.planned import InputColumns, PlannedShard, plan_shards
from tests.set_checker.receipts import ENDS, NamedObject, ReadReceipt, read_receipt
from tests.set_checker.receipts import shard_of_receipt as shard_of
from tests.set_checker.shard import ShardCheck
from tests.set_checker.verdict import Defects, SetVerdict

_SHARD_OBJECT = re.compile(r"(?:data|rejected)/(\d{6})-([0-9a-z]+)[./]")


def check_set(
    prompts: Path | Sequence[Path],
    blobs: Blobs,
    *,
    samples: int = 1,
    shard_rows: int,
    id_column: str | None = "id",
    prompt_column: str = "prompt",
    limit: int | None = None,
) -> SetVerdict:
    """Read a run and its input from end to end: each planned sample once, and nothing else.

    For a run that nobody writes to. What no receipt decides is lost: there is no pending here.
    Objects of the attempts that won no receipt are orphans and no defect. Memory holds the
    input's ids and prompts, one shard's objects, and a few words for each sample.
    """
    plan = plan_shards(prompts, InputColumns(id_column, prompt_column), shard_rows, limit)
    defects = Defects()
    receipts = _receipts(blobs, len(plan), defects)
    claims, named = _read_shards(blobs, plan, receipts, defects)
    everything = AllClaims(claims)
    ends = everything.rows_by_end(plan, samples, defects)
    orphans = _strays(blobs, len(plan), receipts, named, defects)
    _check_manifest(blobs, plan, receipts, defects)
    return SetVerdict(
        planned_rows=sum(len(shard.rows) for shard in plan),
        done_rows=ends["done"],
        filtered_rows=ends["filtered"],
        quarantined_rows=ends["quarantined"],
        cancelled_rows=ends["cancelled"],
        samples=len(everything.done),
        lost=defects.lost,
        duplicated=defects.duplicated,
        unexpected=defects.unexpected,
        corrupt=defects.corrupt,
        orphans=orphans,
    )


def _receipts(blobs: Blobs, shards: int, defects: Defects) -> dict[int, ReadReceipt]:
    """The receipts in force, by their shard."""
    found: dict[int, ReadReceipt] = {}
    for key in blobs.keys("receipts/"):
        shard = shard_of(key)
        if shard is None or shard >= shards:
            defects.unexpected.append(f"{key} is the receipt of no planned shard")
            continue
        try:
            found[shard] = read_receipt(blobs, key)
        except ValueError as error:
            defects.corrupt.append(str(error))
    return found


def _read_shards(
    blobs: Blobs,
    plan: Sequence[PlannedShard],
    receipts: dict[int, ReadReceipt],
    defects: Defects,
) -> tuple[list[ShardClaims], set[str]]:
    """What each shard's objects show, and every key that a receipt answers for."""
    claims, named = [], set[str]()
    for shard in plan:
        receipt = receipts.get(shard.index)
        if receipt is not None:
            check = ShardCheck(blobs, shard, receipt, defects)
            claims.append(check.run())
            named |= {item.key for item in receipt.objects} | check.images
    return claims, named


def _strays(
    blobs: Blobs,
    shards: int,
    receipts: dict[int, ReadReceipt],
    named: set[str],
    defects: Defects,
) -> int:
    """Count what losing attempts left; what nobody could have written is unexpected."""
    orphans = 0
    for key in (key for prefix in ("data/", "rejected/") for key in blobs.keys(prefix)):
        if key in named:
            continue
        match = _SHARD_OBJECT.match(key)
        if match is None or int(match[1]) >= shards:
            defects.unexpected.append(f"{key} is of no planned shard")
            continue
        receipt = receipts.get(int(match[1]))
        if receipt is not None and receipt.attempt == match[2]:
            defects.unexpected.append(f"{key} is the winner's, and its receipt does not name it")
        else:
            orphans += 1
    return orphans


def _check_manifest(
    blobs: Blobs,
    plan: Sequence[PlannedShard],
    receipts: dict[int, ReadReceipt],
    defects: Defects,
) -> None:
    """Where there is a manifest, it is the sum of the receipts of all shards."""
    try:
        document = json.loads(blobs.read("manifest.json"))
        objects = [
            NamedObject(item["key"], item["size_bytes"], item["sha256"])
            for item in document["objects"]
        ]
        rows = {end: document["rows"][end] for end in ("planned", *ENDS)}
    except FileNotFoundError:
        return
    except (KeyError, TypeError, ValueError) as error:
        defects.corrupt.append(f"manifest.json is none ({error!r})")
        return
    in_order = [receipts[shard] for shard in sorted(receipts)]
    true_rows = {end: sum(each.row_ends[end] for each in in_order) for end in ENDS}
    true_rows["planned"] = sum(len(shard.rows) for shard in plan)
    true_objects = [item for each in in_order for item in each.objects]
    if (rows, objects) != (true_rows, true_objects) or len(receipts) != len(plan):
        defects.corrupt.append("manifest.json is not the sum of the receipts")
