"""The optimizer of both models: Muon for matrices and convolutions, Adam for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's update by
the nearest orthogonal matrix, found with five Newton–Schulz steps. torch has it for matrices only;
here a convolution counts as the matrix [out, in·height·width], and matrices of one shape are
orthogonalised together, which is what makes it cheap for small models on a CPU.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

MUON_RATE = 0.02
ADAM_RATE = 2e-3
MOMENTUM = 0.95

Schedule = Callable[[float], float]
"""From the fraction of training done, 0…1, to the factor of the learning rates."""


def warm_cosine(done: float) -> float:
    """2 % of linear warm-up, then half a cosine down to zero."""
    return min(1.0, done / 0.02) * 0.5 * (1 + math.cos(math.pi * done))


def cut_cosine(done: float) -> float:
    """The first 63 % of `warm_cosine`, brought to zero by a linear cool-down of the last 17 %."""
    return warm_cosine(done * 19 / 30) * min(1.0, (1 - done) * 5.7)


def warm_linear(done: float) -> float:
    """2 % of linear warm-up, then linearly down to zero."""
    return min(1.0, done / 0.02) * (1 - done)


def cut_linear(done: float) -> float:
    """The first 69 % of `warm_linear`, brought to zero by a linear cool-down of the last 10 %."""
    return warm_linear(done * 24 / 35) * min(1.0, (1 - done) * 9.6)


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly: float32 [B, rows, columns] to the same.

    Newton–Schulz with the quintic of Muon, whose singular values end between 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


class Optimizer:
    """Muon and Adam over named parameters, their rates following one schedule.

    Embeddings and everything with fewer than two dimensions go to Adam.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], steps: int, schedule: Schedule
    ) -> None:
        self._groups: defaultdict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        self._momenta: dict[tuple[int, int], Tensor] = {}
        rest: list[nn.Parameter] = []
        for name, parameter in parameters:
            if parameter.ndim >= 2 and "embedding.weight" not in name:
                rows = parameter.shape[0]
                self._groups[rows, parameter.numel() // rows].append(parameter)
            else:
                rest.append(parameter)
        self._adam = torch.optim.Adam(rest, lr=ADAM_RATE, betas=(0.9, 0.99))
        self._all = [*rest, *(p for group in self._groups.values() for p in group)]
        self._steps = steps
        self._schedule = schedule
        self._step = 0

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter by its gradient and forget the gradients."""
        self._step += 1
        factor = self._schedule(self._step / self._steps)
        torch.nn.utils.clip_grad_norm_(self._all, 1.0)
        for shape, parameters in self._groups.items():
            self._step_muon(shape, parameters, MUON_RATE * factor)
        self._adam.param_groups[0]["lr"] = ADAM_RATE * factor
        self._adam.step()
        for parameter in self._all:
            parameter.grad = None

    def _step_muon(
        self, shape: tuple[int, int], parameters: list[nn.Parameter], rate: float
    ) -> None:
        rows, columns = shape
        gradients = torch.stack(
            [
                torch.zeros(shape) if p.grad is None else p.grad.reshape(rows, columns)
                for p in parameters
            ]
        )
        momentum = self._momenta.setdefault(shape, torch.zeros_like(gradients))
        momentum.lerp_(gradients, 1 - MOMENTUM)
        updates = orthogonalise(gradients.lerp(momentum, MOMENTUM))  # Nesterov's look ahead
        scale = rate * math.sqrt(max(1.0, rows / columns))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.sub_(update.reshape(parameter.shape), alpha=scale)


class Average:
    """A module's exponential moving average (EMA), which is what is kept of a training."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._decay = decay
        self._count = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module, faster during the first steps."""
        self._count += 1
        decay = min(self._decay, self._count / (self._count + 10))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
