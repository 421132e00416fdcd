"""Commands that measure: `bench engine`, and `bench farm` of `bench_farm`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from render_farm.cli import arguments as args
from render_farm.cli import bench_farm
from render_farm.cli.console import err, out, reporting, set_up_logging
from render_farm.errors import InputError, Problem

if TYPE_CHECKING:
    from render_farm.engine.bench.options import EngineFigures
    from render_farm.engine.bench.pictures import Encode

Dtype = Literal["auto", "float16", "bfloat16", "float32"]
Compile = Literal["auto", "true", "false"]
Encoding = Literal["none", "png", "jpeg"]

QUALITY = 95
MOST_BATCH = 1024

bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The project's own measurements.",
)
bench.command()(bench_farm.farm)


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.add_typer(bench)


@bench.callback()
def root() -> None:
    """The project's own measurements."""


@bench.command()
def engine(
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR|sd15|sdxl",
            help="A local model folder, or a published model at full size with random weights.",
        ),
    ] = "sd15",
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Steps of the uniform rows; default: the model's."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size in pixels; default: the model's own.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="N|auto", help="Our batch size; auto: the engine's choice.")
    ] = "auto",
    stock_batch: Annotated[
        str, typer.Option(metavar="N|auto", help="The stock pipeline's; auto: its best, by trying.")
    ] = "auto",
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Also rows of 75 settings in random order.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Rows of the workload.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of a CPU.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="What weights and pictures are computed in.")] = (
        "auto"
    ),
    compile_: Annotated[
        Compile, typer.Option("--compile", help="Compile the engine; auto: where that works.")
    ] = "auto",
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Turns of each side; default: 5, with --mixed 3."),
    ] = None,
    encode: Annotated[
        Encoding, typer.Option(help="Encode the pictures, on both sides alike.")
    ] = "none",
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Time the engine against the stock pipeline and the device's peak, by turns."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        width_height, ours, theirs = _sizes(size, batch, stock_batch)
        from render_farm.engine.bench.bare import import_without_boto3

        import_without_boto3()
        from render_farm.engine.bench.contest import bench_engine
        from render_farm.engine.bench.options import COMPILES, BenchOptions
        from render_farm.engine.bench.workload import Size

        options = BenchOptions(
            model=model,
            steps=steps,
            size=Size(*width_height) if width_height else None,
            batch=ours,
            stock_batch=theirs,
            mixed=mixed,
            rows=rows,
            threads=threads,
            dtype=dtype,
            compiled=COMPILES[compile_],
            rounds=rounds,
            encode=_encoder(encode),
        )
        figures = bench_engine(options, tell=lambda line: err.print(line, markup=False))
        report.data = figures.as_json()
        if not as_json:
            out.print(_table(figures))


def _sizes(
    size: str | None, batch: str, stock_batch: str
) -> tuple[tuple[int, int] | None, int | None, int | None]:
    """Width and height (px) and both batches; None for defaults. Raises: `InputError`."""
    problems = []
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", size or "")
    if size is not None and found is None:
        allowed = "WIDTHxHEIGHT in pixels"
        problems.append(Problem("--size", size, allowed, "write it like 512x512"))
    batches = {"--batch": batch, "--stock-batch": stock_batch}
    numbers = {
        option: int(text) if re.fullmatch(r"\d{1,5}", text) else 0
        for option, text in batches.items()
    }
    for option, text in batches.items():
        if text != "auto" and not 1 <= numbers[option] <= MOST_BATCH:
            allowed = f"auto or 1 to {MOST_BATCH}"
            problems.append(Problem(option, text, allowed, "leave it out, or give a number"))
    if problems:
        raise InputError(tuple(problems))
    side = (int(found[1]), int(found[2])) if found else None
    return side, numbers["--batch"] or None, numbers["--stock-batch"] or None


def _encoder(encode: Encoding) -> Encode | None:
    if encode == "none":
        return None
    from render_farm.output import codecs

    return lambda pixels: codecs.encode(codecs.as_image(pixels), encode, QUALITY)


def _table(figures: EngineFigures) -> Table:
    """The figures, ours beside the stock pipeline's."""
    table = Table("", "ours", "stock", title=f"{figures.model} {figures.size}, {_rows(figures)}")
    add = table.add_row
    add("images/s", _short(figures.images_per_s), _short(figures.stock_images_per_s))
    add("ratio to stock", f"{figures.ratio_to_stock:.3f}", "1")
    if figures.uniform is not None:
        uniform = figures.uniform
        label = f"images/s, {uniform.rows} uniform rows"
        add(label, _short(uniform.images_per_s), _short(uniform.stock_images_per_s))
        add("  gain from kernels", f"{figures.gain_kernels:.3f}", "1")
        add("  gain from scheduling", f"{figures.gain_scheduling:.3f}", "1")
    add(
        f"fraction of peak ({_short(figures.peak_tflops)} TFLOP/s)",
        _share(figures.fraction_of_peak),
        _share(figures.stock_fraction_of_peak),
    )
    if figures.flops_per_image is not None:
        add("GFLOP an image", f"{figures.flops_per_image / 1e9:,.4g}")
    add("occupancy", _share(figures.occupancy))
    add("peak memory", f"{figures.peak_memory_mb:,.0f} MB")
    add("batch", str(figures.batch), str(figures.stock_batch))
    compiled = "compiled" if figures.compiled else "not compiled"
    add("engine", f"{figures.engine}, {compiled}", "pipeline call")
    add("warm-up, not counted", f"{figures.warm_up_s:.1f} s")
    add("largest difference", f"{figures.largest_difference}/255")
    add("device", figures.device, figures.device)
    add("dtype", figures.dtype, figures.dtype)
    return table


def _rows(figures: EngineFigures) -> str:
    kind = "mixed rows" if figures.mixed else f"rows of {figures.steps} steps"
    return f"{figures.rows} {kind}, {figures.rounds} rounds"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _share(value: float | None) -> str:
    return "not counted" if value is None else f"{value:.3f}"
