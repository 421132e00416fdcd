"""Rows that a hostile or careless dataset may hold, and what must become of each.

A case is a healthy row with some of its values replaced. Text is given as bytes: what a Parquet
file calls text need not be any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from render_farm.job.resolve import MAX_TEXT

DONE = "done"
MEGABYTE = 1 << 20
NAN, INF = math.nan, math.inf

Value = bytes | int | float | None


@dataclass(frozen=True)
class Case:
    """Values that spoil a row, and the type of its error, or `DONE`."""

    name: str
    values: Mapping[str, Value]
    end: str


@dataclass(frozen=True)
class Ward:
    """Cases whose columns have the same types, so that one dataset holds them all."""

    types: Mapping[str, pa.DataType]
    cases: tuple[Case, ...]

    def table(self, *, with_poison: bool = True) -> pa.Table:
        """A healthy row, a case, a healthy row, …; a `case` column says which is which."""
        rows = list(self._rows(with_poison))
        types = {"case": pa.string(), **self.types}
        return pa.table({name: _column(rows, name, kind) for name, kind in types.items()})

    def _rows(self, with_poison: bool) -> Iterator[dict[str, Value]]:
        for number, case in enumerate(self.cases):
            yield {"case": b"healthy", **self._healthy(number)}
            if with_poison:
                mine = self._healthy(number) | self._id(f"case {case.name}", 10**6 + number)
                yield {"case": case.name.encode(), **mine, **case.values}
        yield {"case": b"healthy", **self._healthy(len(self.cases))}

    def _healthy(self, number: int) -> dict[str, Value]:
        row: dict[str, Value] = {"prompt": f"a picture of number {number}".encode()}
        return row | self._id(f"healthy {number}", number)

    def _id(self, name: str, number: int) -> dict[str, Value]:
        return {"id": name.encode() if self.types["id"] == pa.string() else number}


def _column(rows: list[dict[str, Value]], name: str, kind: pa.DataType) -> pa.Array:
    values = [row.get(name) for row in rows]
    if kind == pa.string():
        return pa.array(values, pa.binary()).view(kind)  # nobody looks whether it is UTF-8
    return pa.array(values, kind, from_pandas=False)


def _cases(field: str, end: str, **values: Value) -> list[Case]:
    return [Case(f"{field}: {name}", {field: value}, end) for name, value in values.items()]


def _texts(field: str, end: str) -> list[Case]:
    """What is no text, or too much of it, in one field."""
    return _cases(
        field,
        end,
        latin_1=b"caf\xe9",
        cut_within_a_character=b"\xe7\xb5",
        overlong=b"..\xc0\xaf",
        lone_surrogate=b"\xed\xa0\x80",
        pair_of_surrogates=b"\xed\xa0\xbd\xed\xb8\x80",
        beyond_unicode=b"\xf4\x90\x80\x80",
        a_byte_that_is_never_utf_8=b"\xff",
        a_megabyte=b"x" * MEGABYTE,
        a_megabyte_that_is_no_text=b"\xff" * MEGABYTE,
        one_character_too_many="絵".encode() * (MAX_TEXT + 1),
    )


# Odd, and yet text: it is drawn, recorded and given back as it is.
ODD_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"   ",
    "nul": b"a\0b",
    "control_characters": bytes(range(32)) + b"\x7f\xc2\x80\xc2\x9f",
    "terminal_escapes": b"\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "line_ends": "a\r\nb\u2028c\u2029d\x0be\x85".encode(),
    "byte_order_mark": "\ufeffa cat".encode(),
    "right_to_left": "\u202egpj.exe\u200b\u2066".encode(),
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈".encode(),
    "combining_marks": b"e" + "\u0301".encode() * 10_000,
    "no_characters": "\ufffe\uffff\U0010ffff".encode(),
    "quotes": b'"\'\\"`$(id)`; DROP TABLE rows; --',
    "placeholders": b"{prompt} %s %n ${HOME} {0.__class__} [bold red] [/]",
    "json": b'{"status": "done", "key": "000000000_00"}',
    "paths_upwards": b"../../../../etc/passwd",
    "an_absolute_path": b"/etc/passwd",
    "a_key_of_ours": b"receipts/000000.json",
    "a_url": b"http://169.254.169.254/latest/meta-data/",
    "null_as_a_word": b"null",
    "ten_kilobytes": b"k" * 10_240,
    "as_long_as_allowed": "絵".encode() * MAX_TEXT,
}

TEXT = Ward(
    {name: pa.string() for name in ("id", "prompt", "negative_prompt", "scheduler")},
    (
        *_texts("prompt", "bad_prompt"),
        *_texts("negative_prompt", "bad_negative_prompt"),
        *_texts("id", "bad_id"),
        *_texts("scheduler", "bad_scheduler"),
        *_cases("prompt", DONE, **ODD_TEXTS),
        *_cases("negative_prompt", DONE, **ODD_TEXTS),
        *_cases("id", DONE, **ODD_TEXTS),
        *_cases("prompt", "bad_prompt", null=None),
        *_cases("id", DONE, null=None, of_a_neighbour=b"healthy 0"),
        *_cases("negative_prompt", DONE, null=None),
        *_cases("scheduler", DONE, null=None, model=b"model", known=b"euler"),
        *_cases(
            "scheduler",
            "unknown_scheduler",
            empty=b"",
            unknown=b"best",
            capitals=b"Euler",
            a_class=b"EulerDiscreteScheduler",
            dunder=b"__class__",
            a_path=b"../euler",
            with_nul=b"euler\0",
            control_characters=b"\x1b[31meuler",
        ),
    ),
)

_NUMBERS = ("width", "height", "steps", "guidance_scale", "seed")
_TEXT_TYPES = {"id": pa.string(), "prompt": pa.string()}

FLOATS = Ward(
    {**_TEXT_TYPES, **{name: pa.float64() for name in _NUMBERS}},
    (
        *[
            Case(f"{field}: {value}", {field: value}, f"bad_{field}")
            for field in _NUMBERS
            for value in (NAN, INF, -INF, -1.0, -1e300)
        ],
        *[
            Case(f"{field}: {value}", {field: value}, f"bad_{field}")
            for field in ("width", "height", "steps")
            for value in (0.0, -0.0, 64.5, 5e-324)
        ],
        *_cases("width", "bad_size", odd=60.0, too_wide=8200.0, far_too_wide=1e300),
        *_cases("height", "bad_size", one=1.0, far_too_high=2.0**40),
        *_cases("steps", "bad_steps", too_many=1001.0, far_too_many=1e300),
        *_cases("guidance_scale", "bad_guidance_scale", strong=100.5, far_too_strong=1e308),
        *_cases("guidance_scale", DONE, zero=0.0, minus_zero=-0.0, tiny=5e-324, most=100.0),
        *_cases("seed", "bad_seed", half=0.5, with_gaps=2.0**53, huge=1e300),
        *_cases("seed", DONE, zero=0.0, largest_exact=2.0**53 - 1),
        Case("every number: null", dict.fromkeys(_NUMBERS), DONE),
        Case("whole numbers as floats", {"width": 72.0, "height": 64.0, "steps": 3.0}, DONE),
    ),
)

INTS = Ward(
    {**_TEXT_TYPES, **{name: pa.int64() for name in _NUMBERS}},
    (
        *[
            Case(f"{field}: {value}", {field: value}, f"bad_{field}")
            for field in _NUMBERS
            for value in (-1, -(2**63))
        ],
        *[
            Case(f"{field}: {value}", {field: value}, "bad_size")
            for field in ("width", "height")
            for value in (1, 65, 8200, 2**31, 2**63 - 1)
        ],
        *_cases(
            "steps", "bad_steps", too_many=1001, more_than_a_column_holds=2**31, most=2**63 - 1
        ),
        *_cases("guidance_scale", "bad_guidance_scale", strong=101, most=2**63 - 1),
        *_cases("seed", DONE, zero=0, largest=2**63 - 1),
    ),
)

UNSIGNED = Ward(
    {"id": pa.uint64(), "prompt": pa.string(), "seed": pa.uint64()},
    (
        *_cases("seed", "bad_seed", one_too_large=2**63, largest=2**64 - 1),
        *_cases("seed", DONE, largest_allowed=2**63 - 1),
        *_cases("id", DONE, zero=0, largest=2**64 - 1, null=None),
    ),
)

ORIGINS = Ward(
    {**_TEXT_TYPES, "rf_row": pa.int64(), "rf_row_key": pa.string(), "rf_job_seed": pa.int64()},
    tuple(
        Case(name, {"rf_row": row, "rf_row_key": key, "rf_job_seed": seed}, end)
        for name, row, key, seed, end in (
            ("a true origin", 5, b'"key"', 7, DONE),
            ("a true place", 5, b'["a.parquet", 3]', 7, DONE),
            ("no seed", 5, b'"key"', None, DONE),
            ("no key", 5, None, 7, DONE),
            ("a row that cannot be", -(2**63), b'"key"', 7, DONE),
            ("a lone surrogate in JSON", 5, b'"\\ud800"', 7, DONE),
            ("no JSON", 5, b"key", 7, "bad_rf_row_key"),
            ("an empty key", 5, b"", 7, "bad_rf_row_key"),
            ("a number", 5, b"12", 7, "bad_rf_row_key"),
            ("not a number", 5, b"NaN", 7, "bad_rf_row_key"),
            ("an object", 5, b'{"a": 1}', 7, "bad_rf_row_key"),
            ("a place without a row", 5, b'["a.parquet"]', 7, "bad_rf_row_key"),
            ("a place with a bool", 5, b'["a.parquet", true]', 7, "bad_rf_row_key"),
            ("brackets without end", 5, b"[" * 100_000, 7, "bad_rf_row_key"),
            ("a number without end", 5, b'["a", ' + b"9" * 10_000 + b"]", 7, "bad_rf_row_key"),
            ("no text", 5, b'"\xff"', 7, "bad_rf_row_key"),
            ("a negative seed", 5, b'"key"', -1, "bad_rf_job_seed"),
        )
    ),
)

WARDS = {"text": TEXT, "floats": FLOATS, "ints": INTS, "unsigned": UNSIGNED, "origins": ORIGINS}
