"""Three models or more on one scale: Bradley-Terry with ties (Davidson 1970) over people's votes on one question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from densedpo.evaluation.bradley_terry import rank_outcomes
from densedpo.evaluation.paired import Bootstrap
from densedpo.evaluation.study.votes import Vote


def ranking(votes: Sequence[Vote], models: Sequence[str]) -> dict[str, Any] | None:
    """Return what ``rank_outcomes`` says of votes on one question; None with under two prompts."""
    prompts = sorted({vote.item.prompt_id for vote in votes if vote.value is not None})
    if len(prompts) < 2:
        return None
    rows = {frozenset(pair): (row, pair[0]) for row, pair in enumerate(combinations(models, 2))}
    counts = np.zeros((len(prompts), len(rows), 3))
    for vote in votes:
        if vote.value is not None:
            row, first = rows[frozenset(vote.item.pairing)]
            value = vote.value if vote.item.a.model == first else -vote.value
            counts[prompts.index(vote.item.prompt_id), row, 1 - value] += 1
    return rank_outcomes(counts, models, Bootstrap(len(prompts), seed="study ranking"))
