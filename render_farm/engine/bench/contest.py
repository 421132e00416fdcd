"""The benchmark of the engine: stock, ours and the peak, by turns in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from render_farm.engine.bench.flops import Flops, average_flops, count_flops
from render_farm.engine.bench.options import BenchOptions, EngineFigures, Rates
from render_farm.engine.bench.ours import warm_up
from render_farm.engine.bench.pictures import largest_difference
from render_farm.engine.bench.sides import Sides, assemble
from render_farm.engine.bench.stock import best_batch, most_for, warm_stock
from render_farm.engine.bench.subject import (
    check_settings,
    find_subject,
    mixed_workload,
    uniform_count,
)
from render_farm.engine.bench.switches import Switches
from render_farm.engine.bench.timing import Product, Works, by_turns
from render_farm.engine.bench.workload import uniform_rows
from render_farm.engine.device import set_threads

ROUNDS, MIXED_ROUNDS = 5, 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is settled before the rounds. `uniform` and `mixed` count rows."""

    batch: int
    stock_batch: int
    warm_up_s: float
    uniform: int
    mixed: int
    rounds: int
    flops: Flops | None


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the rounds found. `peak` is operations a second."""

    uniform: Rates
    mixed: Rates | None
    peak: float
    difference: int


def bench_engine(options: BenchOptions, tell: Tell = lambda _: None) -> EngineFigures:
    """Measure; `tell` is given a line at every stage.

    Raises:
        InputError: the options do not fit together, or not the model.
        OutOfMemory: nothing fits the device.
        EngineError: a row could not be rendered.
    """
    # as a user of the stock pipeline finds them, before our loading settles them
    switches = Switches.now()
    set_threads(options.threads)
    tell(f"model {options.model}: load or make")
    sides = assemble(options, find_subject(options), switches)
    plan = _plan(options, sides, tell)
    tell(f"batch {plan.batch}, stock {plan.stock_batch}, warm-up {plan.warm_up_s:.1f} s")
    return _figures(options, sides, plan, _measure(options, sides, plan, tell))


def _plan(options: BenchOptions, sides: Sides, tell: Tell) -> _Plan:
    """Find the batches, warm up, make the rows."""
    subject = sides.subject
    size, setting = subject.size, subject.setting
    check_settings(options, subject, sides.ours.check)
    # other pipelines' forwards follow rules of their own
    flops = None
    if subject.engine == "steps":
        flops = count_flops(sides.stock_pipeline, size.width, size.height)
    batch, warm_up_s = warm_up(sides.ours, options.batch, size, setting, sides.device)
    stock_batch = options.stock_batch
    if stock_batch is None:
        most = most_for(sides.device, subject.loaded.dtype, size)
        stock_batch = best_batch(sides.stock, size, setting, most, tell=tell)
    else:
        warm_stock(sides.stock, stock_batch, size, setting)
    return _Plan(
        batch=batch,
        stock_batch=stock_batch,
        warm_up_s=warm_up_s,
        uniform=uniform_count(options, batch, stock_batch),
        mixed=len(mixed_workload(options, size, max(batch, stock_batch))) if options.mixed else 0,
        rounds=options.rounds or (MIXED_ROUNDS if options.mixed else ROUNDS),
        flops=flops,
    )


def _measure(options: BenchOptions, sides: Sides, plan: _Plan, tell: Tell) -> _Measured:
    """Take turns; mixed rows come last in a round, so that their occupancy is the one kept."""
    product = Product(sides.device, sides.subject.loaded.dtype)
    product()

    def peak() -> None:
        # without what an engine gives up for the same bytes every time
        with sides.switches.in_force():
            product()

    size, setting = sides.subject.size, sides.subject.setting
    larger = max(plan.batch, plan.stock_batch)

    def works_of(number: int) -> Works:
        # Prompts of every round's own, so that none is found encoded already.
        first = number * (larger + plan.uniform + plan.mixed)
        uniform = uniform_rows(plan.uniform, size, setting, first)
        works: dict[str, Callable[[], object]] = {
            "stock": lambda: sides.render_stock(uniform, plan.stock_batch),
            "ours": lambda: sides.render_ours(uniform, plan.batch),
            "peak": peak,
        }
        if plan.mixed:
            mixed = mixed_workload(options, size, larger, first + plan.uniform)
            works["stock mixed"] = lambda: sides.render_stock(mixed, plan.stock_batch)
            works["ours mixed"] = lambda: sides.render_ours(mixed, plan.batch)
        return works

    took_s = by_turns(works_of, plan.rounds, sides.device, tell=tell)
    mixed = None
    if plan.mixed:
        mixed = Rates.of(plan.mixed, took_s["ours mixed"], took_s["stock mixed"])
    return _Measured(
        uniform=Rates.of(plan.uniform, took_s["ours"], took_s["stock"]),
        mixed=mixed,
        peak=product.flops / took_s["peak"],
        difference=largest_difference(sides.pictures["ours"], sides.pictures["stock"]),
    )


def _figures(
    options: BenchOptions, sides: Sides, plan: _Plan, measured: _Measured
) -> EngineFigures:
    rates = measured.mixed or measured.uniform
    gain_kernels = measured.uniform.ratio_to_stock
    flops = _flops_per_image(options, sides, plan)
    info = sides.ours.info
    return EngineFigures(
        images_per_s=rates.images_per_s,
        stock_images_per_s=rates.stock_images_per_s,
        stock_batch=plan.stock_batch,
        ratio_to_stock=rates.ratio_to_stock,
        fraction_of_peak=_fraction(rates.images_per_s, flops, measured.peak),
        occupancy=sides.occupancy,
        peak_memory_mb=sides.peak_bytes / 1e6,
        device=info.device,
        dtype=info.dtype,
        stock_fraction_of_peak=_fraction(rates.stock_images_per_s, flops, measured.peak),
        batch=plan.batch,
        model=options.model,
        engine=info.engine,
        size=str(sides.subject.size),
        steps=sides.subject.setting.steps,
        rows=rates.rows,
        mixed=options.mixed,
        rounds=plan.rounds,
        compiled=sides.compiled,
        warm_up_s=plan.warm_up_s,
        threads=options.threads,
        peak_tflops=measured.peak / 1e12,
        flops_per_image=flops,
        largest_difference=measured.difference,
        uniform=measured.uniform if measured.mixed else None,
        gain_kernels=gain_kernels if measured.mixed else None,
        gain_scheduling=rates.ratio_to_stock / gain_kernels if measured.mixed else None,
        versions=info.versions,
    )


def _flops_per_image(options: BenchOptions, sides: Sides, plan: _Plan) -> float | None:
    if plan.flops is None:
        return None
    size, setting = sides.subject.size, sides.subject.setting
    if options.mixed:
        rows = mixed_workload(options, size, max(plan.batch, plan.stock_batch))
    else:
        rows = uniform_rows(1, size, setting)
    return average_flops(plan.flops, rows, sides.stock_pipeline.scheduler)


def _fraction(images_per_s: float, flops_per_image: float | None, peak: float) -> float | None:
    return None if flops_per_image is None else images_per_s * flops_per_image / peak
