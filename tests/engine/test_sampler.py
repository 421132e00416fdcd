"""The label under which a batch shape is recorded."""

from __future__ import annotations

import pytest

from render_farm.engine.sampler import batch_shape_label, parse_batch_shape


def test_a_batch_shape_is_recorded_with_its_size_and_whether_the_model_was_compiled() -> None:
    assert batch_shape_label(16, 512, 768, compiled=False) == "16x512x768"
    assert batch_shape_label(1, 64, 64, compiled=True) == "1x64x64+compiled"


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("batch_size", [1, 16, 1024])
def test_what_is_recorded_is_read_back(batch_size: int, compiled: bool) -> None:
    label = batch_shape_label(batch_size, 512, 768, compiled=compiled)
    assert parse_batch_shape(label) == (batch_size, compiled)


@pytest.mark.parametrize(
    "label",
    ["", "16", "16x64", "0x64x64", "x64x64", "16x64x64+", "16x64x64+other", "16x64x64\n", "-1x8x8"],
)
def test_another_label_is_refused_by_name(label: str) -> None:
    with pytest.raises(ValueError, match="batch_shape"):
        parse_batch_shape(label)
