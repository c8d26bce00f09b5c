"""All variants in one process: counted once, compared with B1 on one draw, then timed in turn, round after round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from _measure import Forwards, counted_forwards, memory, timed_ms
from _prepare import Bench
from _variants import Calls, Variant, best_policy, live_loss, use, variants
from torch import Tensor

from densedpo.errors import ConfigError, TrainingError
from densedpo.models.execution import compile_blocks
from densedpo.models.operations import operations
from densedpo.observe import say, warn
from densedpo.training.draws import Draw


@dataclass
class Record:
    """What was seen of one variant."""

    operations: int | None = None
    forwards: Forwards = field(default_factory=Forwards)
    memory: int | None = None
    ms: list[float] = field(default_factory=list)
    loss_difference: float = 0.0
    cosine: float = 1.0


def measure(bench: Bench, repeats: int, *, compiled: bool) -> tuple[list[Variant], dict[str, Record]]:
    """Count each variant once, then time all of them in turn, ``repeats`` rounds after one that is dropped."""
    draws = [bench.draw(number) for number in range(repeats + 1)]
    best = best_policy(bench, draws[0])  # before compiling: torch gives up on a block it first meets under a counter
    calls = _compile(bench, draws[0]) if compiled else {}
    chosen = variants(bench, best, compiled=bool(calls))
    records = {variant.name: Record() for variant in chosen}
    for variant in chosen:
        say(f"{bench.shape}: counting {variant.name}")
        use(bench, variant, calls, compiled=False)
        try:
            _count(bench, variant, draws[0], records[variant.name])
        except torch.OutOfMemoryError:
            records[variant.name].operations = None
        _drop_gradients(bench)
    running = [variant for variant in chosen if records[variant.name].operations is not None]
    _compare(bench, running, draws[0], records, calls)
    for number, draw in enumerate(draws[1:], start=1):
        say(f"{bench.shape}: round {number} of {repeats}")
        start = number % len(running)
        losses = {}
        for variant in [*running[start:], *running[:start]]:
            use(bench, variant, calls, compiled=variant.compiled)
            loss, ms = _step(bench, variant, draw)
            losses[variant.name] = loss
            records[variant.name].ms.append(ms)
            _drop_gradients(bench)
        for name, loss in losses.items():
            records[name].loss_difference = max(records[name].loss_difference, abs(loss - losses["B1"]))
    use(bench, chosen[0], calls, compiled=False)
    return chosen, records


def _compile(bench: Bench, draw: Draw) -> Calls:
    """Compile the blocks behind the package's own check; return their compiled calls, or none where it fails."""
    try:
        gap = compile_blocks(bench.model, lambda: live_loss(bench, draw), bench.settings.dtype)
    except (ConfigError, TrainingError) as error:
        warn(f"{error}; going on without")
        return {}
    say(f"compiled; largest gradient difference {gap.difference:.2g} of its norm, in {gap.name}")
    return {m: m._compiled_call_impl for m in bench.model.denoiser.modules() if m._compiled_call_impl is not None}


def _count(bench: Bench, variant: Variant, draw: Draw, record: Record) -> None:
    """Count operations, forwards and memory, uncompiled: counters switch the compiler off."""
    with counted_forwards([bench.model.denoiser, bench.frozen]) as record.forwards:
        record.operations = operations(lambda: variant.step(draw).backward())
    _drop_gradients(bench)
    record.memory = memory(lambda: variant.step(draw).backward(), variant.loaded, bench.model.device)


def _compare(bench: Bench, running: Sequence[Variant], draw: Draw, records: dict[str, Record], calls: Calls) -> None:
    """Compare every variant's loss and gradient with B1's on one draw, as they will be timed; this also warms up."""
    first = next(variant for variant in running if variant.name == "B1")
    expected: tuple[float, list[Tensor]] | None = None
    for variant in [first, *(v for v in running if v is not first)]:
        use(bench, variant, calls, compiled=variant.compiled)
        loss, _ = _step(bench, variant, draw)
        gradients = [p.grad.cpu() for p in bench.model.denoiser.parameters() if p.grad is not None]
        _drop_gradients(bench)
        expected = expected or (loss, gradients)
        records[variant.name].loss_difference = abs(loss - expected[0])
        records[variant.name].cosine = _cosine(expected[1], gradients)


def _step(bench: Bench, variant: Variant, draw: Draw) -> tuple[float, float]:
    """Do one step; return the loss and the time in milliseconds."""
    losses: list[Tensor] = []

    def work() -> None:
        loss = variant.step(draw)
        loss.backward()
        losses.append(loss.detach())

    ms = timed_ms(work, bench.model.device)
    return float(losses[0]), ms


def _cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    dot = norm = other_norm = 0.0
    for one, other in zip(first, second, strict=True):
        a, b = one.double().flatten(), other.double().flatten()
        dot, norm, other_norm = dot + float(a @ b), norm + float(a @ a), other_norm + float(b @ b)
    assert norm > 0, "all gradients vanish, so anything would pass"
    return dot / math.sqrt(norm * other_norm) if other_norm else 0.0


def _drop_gradients(bench: Bench) -> None:
    for parameter in bench.model.denoiser.parameters():
        parameter.grad = None
