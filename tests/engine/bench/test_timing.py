"""Taking turns, medians and the product that stands for the peak."""

from __future__ import annotations

from collections.abc import Callable

import torch

from render_farm.engine.bench.timing import Product, by_turns, timed

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def passing(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now_s += seconds

        return work


def test_all_works_are_done_once_a_round_by_turns():
    done: list[tuple[int, str]] = []

    def works_of(number: int) -> dict[str, Callable[[], object]]:
        return {name: lambda name=name: done.append((number, name)) for name in ("a", "b")}

    by_turns(works_of, 3, CPU)
    assert done == [(n, name) for n in (1, 2, 3) for name in ("a", "b")]


def test_the_median_of_each_work_is_its_time():
    clock = Clock()
    took_s = {"a": [1.0, 9.0, 2.0], "b": [5.0, 5.0, 50.0]}

    def works_of(number: int) -> dict[str, Callable[[], object]]:
        clock.now_s += 100  # making the works is not timed
        return {name: clock.passing(all_s[number - 1]) for name, all_s in took_s.items()}

    said: list[str] = []
    assert by_turns(works_of, 3, CPU, clock, said.append) == {"a": 2.0, "b": 5.0}
    assert said[1] == "round 2 of 3: a 9.00 s, b 5.00 s"


def test_a_work_is_timed_from_its_start_to_its_end():
    clock = Clock()
    clock.now_s = 7
    assert timed(clock.passing(3.5), CPU, clock) == 3.5


def test_a_product_is_of_the_dtype_and_counts_both_multiplications_and_additions():
    for dtype in (torch.float32, torch.bfloat16):
        product = Product(CPU, dtype, side=16)
        assert product.flops == 2 * 16**3
        product()
        expected = product._left.double() @ product._right.double()
        assert torch.allclose(product._result.double(), expected, rtol=0.05, atol=0.2)
        assert product._result.dtype == dtype
