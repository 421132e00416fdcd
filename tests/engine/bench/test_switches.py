"""torch's switches, kept for each side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from render_farm.engine.bench.switches import Switches


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    found = Switches.now()
    yield
    found.set()


def test_switches_are_in_force_inside_the_block_only():
    users = Switches.now()
    torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(mode=True)
    engines = Switches.now()
    assert engines != users
    with users.in_force():
        assert Switches.now() == users
    assert Switches.now() == engines


def test_switches_come_back_after_an_error():
    users = Switches.now()
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    engines = Switches.now()

    def fail_in_the_block() -> None:
        with users.in_force():
            raise ValueError

    with pytest.raises(ValueError):
        fail_in_the_block()
    assert Switches.now() == engines
