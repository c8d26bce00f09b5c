"""Rows, gates and the table: what the benchmark says about what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import torch
from _measure import peak_tflops
from _model import TINY
from _prepare import Bench, Cost
from _rounds import Record
from _variants import Variant

OPERATION_GATES = {"cached": 1.25, "cached+save-attention": 1.40, "cached+no-checkpointing": 1.70}
WALL_GATES = {"cached+no-checkpointing": 1.5}
EQUALITY = {"float32": (1e-5, 0.9999), "bfloat16": (5e-2, 0.99)}  # largest |loss difference|, least gradient cosine

Row = dict[str, Any]


def rows_of(bench: Bench, chosen: Sequence[Variant], records: dict[str, Record]) -> list[Row]:
    """Turn records into rows."""
    baseline, device = records["B1"], bench.model.device
    saved_ms = median(records["live"].ms) - median(records["cached"].ms)
    rows = []
    for variant in chosen:
        record = records[variant.name]
        row: Row = {"variant": variant.name, "shape": str(bench.shape), "tuning": bench.tuning}
        if record.operations is None:
            rows.append({**row, "note": "out of memory"})
            continue
        ratios = [one / other for one, other in zip(baseline.ms, record.ms, strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        row |= {
            "operations": record.operations,
            "operations_ratio_over_b1": baseline.operations / record.operations if baseline.operations else None,
            "wall_ms_median": median(record.ms),
            "wall_ratio_over_b1": median(ratios),
            "wall_ratio_iqr": [low, high],
            "graded_forwards": record.forwards.graded,
            "ungraded_forwards": record.forwards.ungraded,
            "denoiser_calls": record.forwards.calls,
            "peak_memory_bytes": record.memory,
            "preparation": _preparation(variant, bench.cost, saved_ms),
            "loss_difference": record.loss_difference,
            "gradient_cosine": record.cosine,
            "checkpointing": variant.policy,
            "compiled": variant.compiled,
            "note": variant.note,
        }
        if device.type == "cuda":
            achieved = record.operations / median(record.ms) / 1e9
            peak = peak_tflops(device)
            row |= {"tflops_per_s": achieved, "share_of_peak": achieved / peak if peak else None}
        rows.append(row)
    return rows


def _preparation(variant: Variant, cost: Cost, saved_ms: float) -> dict[str, dict[str, float | None]]:
    """Return what must be prepared, once a pair, with the epochs in which that is earned back.

    The loop would encode the videos once a visit and the text once for each video; a cached reference saves one pass a
    visit, which is measured as the difference between live and cached.
    """
    payback = {"latents": 1.0, "text": 0.5, "reference": cost["reference"]["ms"] / saved_ms if saved_ms > 0 else None}
    needed = [] if variant.name == "B0" else ["latents", "text"]
    if variant.name.startswith("cached"):
        needed.append("reference")
    return {name: {**cost[name], "payback_epochs": payback[name]} for name in needed}


def gates_of(rows: Sequence[Row], device: torch.device, dtype: str) -> list[Row]:
    """Return the gates with what was measured; ratios are gated where they were set: LoRA on the tiny model."""
    gates = []
    for row in rows:
        name = row["variant"]
        if "operations" not in row:
            continue
        largest, least = EQUALITY[dtype]
        checks = [("loss_difference", "<=", largest), ("gradient_cosine", ">=", least)]
        if device.type == "cpu" and (row["shape"], row["tuning"]) == (str(TINY), "lora"):
            checks += [("operations_ratio_over_b1", ">=", limit) for of, limit in OPERATION_GATES.items() if of == name]
            checks += [("wall_ratio_over_b1", ">=", limit) for of, limit in WALL_GATES.items() if of == name]
        for key, sign, limit in checks:
            value = row[key]
            passed = value <= limit if sign == "<=" else value >= limit
            place = {"variant": name, "shape": row["shape"], "gate": f"{key} {sign} {limit:g}"}
            gates.append({**place, "measured": value, "passed": passed})
    return gates


def table(rows: Sequence[Row]) -> str:
    """Return the rows for people."""
    head = ["variant", "shape", "ops / G", "ops ratio", "ms", "wall ratio (quartiles)", "graded+not"]
    head += ["peak MiB", "|dloss|", "1-cosine"]
    if any("tflops_per_s" in row for row in rows):
        head.append("TFLOP/s (of peak)")
    lines = [head]
    for row in rows:
        if "operations" not in row:
            lines.append([row["variant"], row["shape"], row["note"], *[""] * (len(head) - 3)])
            continue
        low, high = row["wall_ratio_iqr"]
        line = [
            row["variant"],
            row["shape"],
            f"{row['operations'] / 1e9:.1f}",
            f"{row['operations_ratio_over_b1']:.2f}",
            f"{row['wall_ms_median']:.0f}",
            f"{row['wall_ratio_over_b1']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['graded_forwards']}+{row['ungraded_forwards']}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{row['loss_difference']:.1e}",
            f"{1 - row['gradient_cosine']:.1e}",
        ]
        if "tflops_per_s" in row:
            share = row["share_of_peak"]
            line.append(f"{row['tflops_per_s']:.0f}" + (f" ({share:.0%})" if share else ""))
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
