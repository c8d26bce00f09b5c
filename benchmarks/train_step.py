"""One DPO training step on one pair: what users find today (B0), the strongest alternative (B1, B1+), and this package.

    python benchmarks/train_step.py --device cpu                  a table; a few minutes on two slow cores
    python benchmarks/train_step.py --device cpu --json --check   one object, exit code 1 if a gate fails
    python benchmarks/train_step.py --device cuda --tuning full   Wan2.1-1.3B's shape at three sizes

Every variant runs in this process, interleaved, on the same weights, pair, noise level and noise; the ratios are paired
within a round. A step is forward and backward; the optimizer's update is the same for all and left out. The weights are
random: the figures tell speed, memory and equality, nothing about quality. README.md beside this file explains rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import machine
from _model import LARGE, TINY, RandomWan, Shape
from _prepare import BETA, DRAWS, prepare
from _rounds import measure
from _rows import Row, gates_of, rows_of, table

from densedpo.models.load import resolve_device
from densedpo.observe import print_json
from densedpo.store.files import write_json


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its one object."""
    device = resolve_device(arguments.device)
    facts = machine(device)
    shapes = arguments.shape or ([TINY] if device.type == "cpu" else LARGE)
    compiled = device.type == "cuda" if arguments.compile is None else arguments.compile
    model = RandomWan(device)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for bench in prepare(model, shapes, arguments.tuning, Path(folder)):
            chosen, records = measure(bench, arguments.repeats, compiled=compiled)
            rows += rows_of(bench, chosen, records)
    dtype = bench.settings.dtype
    gates = gates_of(rows, device, dtype)
    return {
        "benchmark": "train_step",
        "rows": rows,
        "gates": gates,
        "passed": all(gate["passed"] for gate in gates),
        "device": device.type,
        "tuning": arguments.tuning,
        "dtype": dtype,
        "repeats": arguments.repeats,
        "beta": BETA,
        "reference_draws": DRAWS,
        "memory_is": "bytes of the weights that the variant keeps loaded, and the step's peak above them: "
        + ("the CUDA allocator's" if device.type == "cuda" else "of live tensors, counted operation by operation"),
        "weights": "random: they say nothing about quality",
        "machine": facts,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds, after one that is dropped")
    parser.add_argument("--shape", type=Shape.parse, nargs="+", help="clips' height x width x frames, e.g. 240x416x33")
    parser.add_argument("--tuning", choices=["lora", "full"], default="lora")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile B1+, and add compiled rows of ours; on CUDA by default",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate fails")
    parser.add_argument("--out", type=Path, help="also write the object to this file")
    arguments = parser.parse_args(words)
    result = run(arguments)
    if arguments.out:
        write_json(arguments.out, result)
    if arguments.json:
        print_json(result)
    else:
        print(table(result["rows"]))
        for gate in result["gates"]:
            if not gate["passed"]:
                print(f"FAILED {gate['variant']} {gate['shape']}: {gate['gate']}, measured {gate['measured']:.4g}")
    return 1 if arguments.check and not result["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
