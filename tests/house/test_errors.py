"""Every error a user can meet is documented and is also a standard exception."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from densedpo import errors
from densedpo.errors import DenseDPOError


def error_classes() -> list[type[DenseDPOError]]:
    found = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, DenseDPOError)]
    assert DenseDPOError in found
    return [item for item in found if item is not DenseDPOError]


@pytest.mark.parametrize("error", error_classes())
def test_error_is_documented(root: Path, error: type[DenseDPOError]) -> None:
    assert error.__doc__
    assert error.__doc__ != DenseDPOError.__doc__
    assert f"`{error.__name__}`" in (root / "docs/reference/command-line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", error_classes())
def test_error_is_also_a_standard_exception(error: type[DenseDPOError]) -> None:
    standard = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert set(standard) - {Exception, BaseException, object}
