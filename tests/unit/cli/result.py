"""What tests of the command line look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded
