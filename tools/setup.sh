#!/usr/bin/env bash
# Makes .venv in the project's root with densedpo in it: tools/setup.sh [EXTRA].
# Called by the Makefile. Safe to repeat and to interrupt; PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}
cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or newer found (tried ${PYTHON:-python3, python3.11 to 3.13}); set PYTHON=/path/to/python" >&2
    return 1
}

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || {
        echo "setup: $python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

requirement=$(.venv/bin/python - <<'PYTHON'
import tomllib
from pathlib import Path

dependencies = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
print(next(name for name in dependencies if name.startswith("torch>")))
PYTHON
)

# Which torch a plain install would add: its version, or nothing where a fitting one is there.
planned_torch() {
    pip install --quiet --dry-run --no-deps --report - "$requirement" | .venv/bin/python -c '
import json, sys
print(*(item["metadata"]["version"] for item in json.load(sys.stdin)["install"]))'
}

has_gpu() { command -v nvidia-smi >/dev/null || [ -e /proc/driver/nvidia/version ]; }

# From 23.3 on a dry run reads metadata alone; before, it would download the whole of torch.
pip install --quiet "pip>=23.3"
if [ "$(uname -s)" = Linux ] && ! has_gpu; then
    planned=$(planned_torch)
    if [ -n "$planned" ] && [[ $planned != *+cpu ]]; then
        echo "setup: no NVIDIA GPU here; fetching the CPU build of torch from $cpu_index"
        pip install --quiet --no-deps --timeout 10 --retries 0 --index-url "$cpu_index" "$requirement" ||
            echo "setup: no CPU build could be had; going on with torch $planned as the registry has it (large)" >&2
    fi
fi
echo "setup: installing densedpo${extra:+ with [$extra]} and what it needs (some minutes)"
pip install --quiet --editable ".${extra:+[$extra]}"
