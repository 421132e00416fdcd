"""What a worker reserves of its node, and how many workers a cluster holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from render_farm.errors import InputError
from render_farm.job.spec import WorkersSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker reserves of its node, and how many workers there are to be at first."""

    count: int
    cpus: int
    gpus: float
    custom: Mapping[str, float] = field(default_factory=dict)

    @property
    def bundle(self) -> dict[str, float]:
        """What a worker reserves, in Ray's words."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        return {"CPU": self.cpus, **gpus, **self.custom}


def size_workers(
    workers: WorkersSpec, nodes: Sequence[Mapping[str, float]], *, growing: bool
) -> Resources:
    """How many workers there are and what each reserves of one of `nodes`.

    `gpus: auto` is one where the cluster has any and none elsewhere; `count: auto` is as many as
    fit now. A `growing` cluster may have fewer nodes yet than the job asks for.

    Raises:
        InputError: not even one fits, and none is to be waited for.
    """
    gpus_there = sum(node.get("GPU", 0.0) for node in nodes)
    gpus = (1.0 if gpus_there else 0.0) if workers.gpus == "auto" else workers.gpus
    one = Resources(1, workers.cpus, gpus, workers.resources)
    there = sum(fitting(node, one.bundle) for node in nodes)
    count = there if workers.count == "auto" else workers.count
    if there < 1 and not (growing and count):
        raise _too_large(one, nodes)
    if count > there:
        log.warning(
            "fewer workers fit than asked for; the others wait for nodes",
            extra={"asked": count, "fitting": there},
        )
    return Resources(count, workers.cpus, gpus, workers.resources)


def fitting(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """Workers that a node holds. Ray counts in ten-thousandths, and floats would lose one."""
    return min(
        round(node.get(name, 0.0) * 10_000) // round(amount * 10_000)
        for name, amount in bundle.items()
    )


def _too_large(one: Resources, nodes: Sequence[Mapping[str, float]]) -> InputError:
    def largest(name: str) -> float:
        return max((node.get(name, 0.0) for node in nodes), default=0.0)

    gpus_there = sum(node.get("GPU", 0.0) for node in nodes)
    custom = "".join(f", {name}: {amount:g}" for name, amount in one.custom.items())
    customs = "".join(f"; {largest(name):g} {name}" for name in one.custom)
    return InputError.of(
        "workers",
        f"cpus: {one.cpus}, gpus: {one.gpus:g}{custom} a worker",
        f"what one node can give: at most {largest('CPU'):g} CPUs; {gpus_there:g} GPUs in all"
        f"{customs}",
        "lower workers.cpus, workers.gpus or workers.resources, or add nodes",
    )
