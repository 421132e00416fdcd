"""Poison rows: one bad row costs one row, on the real way from a dataset to a verified run."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import InputError
from render_farm.job.spec import RequestField
from render_farm.ledger import keys
from render_farm.ledger.receipt import Receipt, iter_receipts
from render_farm.memory import peak_memory_bytes
from render_farm.output.layout import CONTAINERS, StoredSample
from render_farm.output.metadata import METADATA_COLUMNS
from render_farm.output.parquet import read_metadata
from render_farm.views.results import shard_samples
from render_farm.views.verify import verify_run
from tests.hostile.children import verdicts
from tests.hostile.columns import COLUMNS, NAMES, NO_PROMPTS
from tests.hostile.poison import DONE, MEGABYTE, ODD_TEXTS, WARDS, Ward
from tests.making.jobs import make_job
from tests.making.runs import Run, submit

KEYS = re.compile(
    r"run\.json|manifest\.json|quarantine\.parquet|receipts/\d{6}\.json|driver/[a-z0-9/.+-]+"
    r"|(data|rejected)/\d{6}-[0-9a-f]{12}(\.tar|\.parquet|/\d{9}_\d\d\.png)"
)
LONGEST_MESSAGE = 500


def rendered(path: Path, output: Path, container: str = "webdataset", **columns: Any) -> Run:
    """The dataset, submitted and driven to its end."""
    job = make_job(
        path,
        output,
        prompts={"columns": columns},
        layout={"container": container},
        shards={"rows": 50},
        limits={"max_quarantined": 1.0},
    )
    run = submit(job)
    end = run.drive()
    assert end.reason is None, end.reason
    return run


def lines_of(run: Run) -> list[dict[str, Any]]:
    """Every line of metadata of a run: of done samples and of quarantined rows."""
    found: list[dict[str, Any]] = []
    for receipt in iter_receipts(run.store, run.record.plan.shards):
        for item in receipt.objects:
            if item.key.endswith(".parquet"):
                table = read_metadata(io.BytesIO(run.store.get(item.key)), item.key)
                found += table.select([*METADATA_COLUMNS.names, "case"]).to_pylist()
    return sorted(found, key=lambda line: line["row"])


def check_whole(run: Run) -> None:
    """Rows in = done + filtered + quarantined + cancelled, and every byte is what it should be."""
    verdict = verify_run(run.store, run.record)
    assert verdict.ok, verdict.findings.problems
    rows = dict(verdict.rows)
    assert rows.pop("planned") == run.record.plan.rows == sum(rows.values())
    assert rows["pending"] == 0


def pictures_of_the_healthy(run: Run) -> dict[str, str]:
    return {line["id"]: line["sha256"] for line in lines_of(run) if line["case"] == "healthy"}


@pytest.fixture(scope="session")
def without_poison(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Ward], dict[str, str]]:
    """The pictures of a ward's healthy rows where there are no others."""

    def pictures(ward: Ward) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("healthy")
        pq.write_table(ward.table(with_poison=False), folder / "a.parquet")
        return pictures_of_the_healthy(rendered(folder / "a.parquet", folder / "run"))

    return pictures


def ends_of(run: Run) -> dict[str, str]:
    """Case: how it ended."""
    return {
        line["case"]: line["error_type"] or line["status"]
        for line in lines_of(run)
        if line["case"] != "healthy"
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("ward", WARDS)
def test_a_poison_row_ends_as_it_must_and_its_neighbours_keep_their_bytes(
    ward: str,
    container: str,
    tmp_path: Path,
    without_poison: Callable[[Ward], dict[str, str]],
    figure: Callable[[str, object], None],
) -> None:
    cases = WARDS[ward].cases
    pq.write_table(WARDS[ward].table(), tmp_path / "a.parquet", row_group_size=20)
    run = rendered(tmp_path / "a.parquet", tmp_path / "run", container)
    check_whole(run)
    lines = lines_of(run)
    assert ends_of(run) == {case.name: case.end for case in cases}
    assert Counter(line["case"] == "healthy" for line in lines)[True] == len(cases) + 1
    assert pictures_of_the_healthy(run) == without_poison(WARDS[ward])
    stored = [info.key for info in run.store.list()]
    assert [key for key in stored if not KEYS.fullmatch(key)] == []
    messages = [line["error"] for line in lines if line["error"]]
    assert all(message.isprintable() for message in messages)
    assert max(map(len, messages)) <= LONGEST_MESSAGE
    if container == CONTAINERS[0]:
        figure(f"poison rows, {ward}: cases that ended as they must", len(cases))


@pytest.mark.parametrize("ward", WARDS)
def test_quarantined_rows_can_be_submitted_as_they_are_and_end_alike(
    ward: str, tmp_path: Path
) -> None:
    """A row whose origin was at fault has lost that with its key: it is rendered by its place."""
    pq.write_table(WARDS[ward].table(), tmp_path / "a.parquet")
    rendered(tmp_path / "a.parquet", tmp_path / "run")
    refused = {case.name: case.end for case in WARDS[ward].cases if case.end != DONE}
    written = pq.read_table(tmp_path / "run" / keys.QUARANTINE)
    errors = written["rf_error_type"].to_pylist()
    assert dict(zip(written["case"].to_pylist(), errors, strict=True)) == refused
    again = rendered(tmp_path / "run" / keys.QUARANTINE, tmp_path / "again")
    check_whole(again)
    if ward == "origins":
        assert ends_of(again) == dict.fromkeys(refused, DONE)
    else:
        assert ends_of(again) == refused
        once_more = pq.read_table(tmp_path / "again" / keys.QUARANTINE)
        assert bits_of(once_more).equals(bits_of(written))


def bits_of(table: pa.Table) -> pa.Table:
    """The table with floats as the numbers that their bits are: NaN is then equal to itself."""
    columns = [
        column.combine_chunks().view(pa.int64()) if column.type == pa.float64() else column
        for column in table.combine_chunks().columns
    ]
    return pa.table(columns, names=table.column_names)


@pytest.mark.parametrize("container", CONTAINERS)
def test_odd_text_is_given_back_as_it_was(container: str, tmp_path: Path) -> None:
    texts = [text.decode() for text in ODD_TEXTS.values()]
    pq.write_table(pa.table({"prompt": texts, "id": texts}), tmp_path / "a.parquet")
    run = rendered(tmp_path / "a.parquet", tmp_path / "run", container)
    receipts = iter_receipts(run.store, run.record.plan.shards)
    found = [sample for receipt in receipts for sample in samples_of(run, receipt)]
    assert [sample.record["prompt"] for sample in found] == texts
    assert [sample.record["id"] for sample in found] == texts


def samples_of(run: Run, receipt: Receipt) -> list[StoredSample]:
    return list(shard_samples(run.store, run.record, receipt))


@pytest.mark.parametrize("container", CONTAINERS)
def test_carried_columns_of_every_type_and_name_come_through(
    container: str, tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    carried = pa.table(
        [*COLUMNS.values(), *[pa.array([n, n]) for n in range(len(NAMES))]],
        names=[*COLUMNS, *NAMES],
    )
    table = carried.append_column("prompt", pa.array(["a picture", None]))
    pq.write_table(table, tmp_path / "a.parquet")
    read = pq.read_table(tmp_path / "a.parquet").drop_columns(["prompt"])
    run = rendered(tmp_path / "a.parquet", tmp_path / "run", container)
    check_whole(run)
    (receipt,) = iter_receipts(run.store, 1)
    files = [item.key for item in receipt.objects if item.key.endswith(".parquet")]
    done, quarantined = (
        read_metadata(io.BytesIO(run.store.get(key)), key) for key in sorted(files)
    )
    for row, found in enumerate([done, quarantined]):
        columns = found.columns[len(METADATA_COLUMNS) :]
        for column, name in zip(columns, carried.column_names, strict=True):
            assert column.equals(read.column(name).slice(row, 1).cast(column.type)), name
    again = rendered(tmp_path / "run" / keys.QUARANTINE, tmp_path / "again", container)
    assert ends_by_row(again) == ["bad_prompt"]
    if container == CONTAINERS[0]:
        figure("carried columns of odd types and names that come through", carried.num_columns)


def ends_by_row(run: Run) -> list[str]:
    (receipt,) = iter_receipts(run.store, 1)
    return list(receipt.errors_by_type)


NUMERIC = {"id", "seed", "width", "height", "steps", "guidance_scale"}


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (field, kind)
        for field in get_args(RequestField)
        for kind in NO_PROMPTS
        if kind != "numbers" or field not in NUMERIC
    ],
)
def test_a_column_that_cannot_give_its_field_is_refused_before_anything_is_written(
    field: str, kind: str, tmp_path: Path
) -> None:
    columns = {"prompt": pa.array(["a", "b"])} | {field: NO_PROMPTS[kind]}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    several = {"models": {"a": {"path": "none", "engine": "rehearsal"}}}
    with pytest.raises(InputError) as caught:
        submit(make_job(path, tmp_path / "run", **(several if field == "model" else {})))
    (problem,) = caught.value.problems
    assert problem.field == f"prompts.columns.{field}"
    assert str(pq.read_schema(path).field(field).type) in problem.value
    assert not (tmp_path / "run").exists()


def test_a_message_about_columns_is_short_and_safe_to_print(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    names = [name for name in NAMES if name != "Prompt"]
    pq.write_table(pa.table([pa.array([1])] * len(names), names=names), path)
    with pytest.raises(InputError) as caught:
        submit(make_job(path, tmp_path / "run", prompts={"columns": {"id": "key", "seed": "x"}}))
    for problem in caught.value.problems:
        assert str(problem).isprintable()
        assert len(str(problem)) < 1500


def render_long_prompts(case: int) -> str:
    """256 rows of a megabyte each, in a process with bounded memory: how much of it they took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema = pa.schema([("prompt", pa.string()), ("case", pa.string())])
        with pq.ParquetWriter(folder / "a.parquet", schema, compression="zstd") as writer:
            for row in range(256):
                table = pa.table({"prompt": [f"{row}" + "x" * MEGABYTE], "case": ["long"]})
                writer.write_table(table)
        before_bytes = peak_memory_bytes()
        run = rendered(folder / "a.parquet", folder / "run")
        check_whole(run)
        grown_bytes = peak_memory_bytes() - before_bytes
        ends = {line["error_type"] for line in lines_of(run)}
        longest = max(len(str(value)) for line in lines_of(run) for value in line.values())
        return f"{','.join(ends)} {grown_bytes >> 20} {longest}"


def test_a_shard_of_prompts_of_a_megabyte_leaves_one_copy_of_them_and_takes_little_memory(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    """Only `quarantine.parquet` has them, whole, so that it can be submitted again."""
    ended = verdicts(f"{__name__}:render_long_prompts", range(1), tmp_path)[0]
    error, grown_mib, longest = ended.split()
    assert error == "bad_prompt", ended
    assert int(longest) < LONGEST_MESSAGE
    assert 0 < int(grown_mib) < 1024
    figure("256 prompts of a megabyte: MiB of memory beyond the input", int(grown_mib))
