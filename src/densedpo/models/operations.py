"""Floating-point operations of a piece of work, counted as it runs; attention on a CPU included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_CPU_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of the matrix products, convolutions and attention of ``work``.

    Attention backward counts 2.5 times its forward (five products for two), on every device. What checkpointing runs
    again is counted, as it is run. Tensors on the device ``meta`` count as well. Memory must be measured in another
    run: this counter keeps tensors alive.
    """
    # torch has no formula for the CPU's attention
    formulas = {_CPU_FLASH: _attention_flops, _CPU_FLASH_BACKWARD: _attention_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    total: int = counter.get_total_flops()
    return total
