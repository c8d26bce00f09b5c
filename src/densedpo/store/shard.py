"""A part of a stage's work: several processes or machines share one project, each taking every n-th piece."""

from __future__ import annotations

import re
from dataclasses import dataclass

from densedpo.errors import ConfigError

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """The part ``index`` of ``count`` of the work, counted from 1."""

    index: int = 1
    count: int = 1

    def takes(self, place: int) -> bool:
        """Say whether the piece at ``place`` belongs to this part."""
        return place % self.count == self.index - 1

    def __str__(self) -> str:
        """Return it as it is given: ``2/4``."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read ``i/n``, 1 <= i <= n.

    Raises:
        ConfigError: if the text is something else.
    """
    match = _SHARD.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {text!r}: give i/n with i from 1 to n, for example 2/4")
    return Shard(int(match[1]), int(match[2]))
