"""The run-time type checker of the tests: beartype, with whole numbers accepted for floats (PEP 484)."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
