"""Three models or more on one scale: Bradley-Terry with ties (Davidson 1970) over people's votes on one question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from densedpo.evaluation.bradley_terry import davidson
from densedpo.evaluation.paired import Bootstrap
from densedpo.evaluation.study.votes import Vote

_DRAWS = 200
_ROUNDING = 1e-6  # where all are ties, strengths differ by rounding alone


def ranking(votes: Sequence[Vote], models: Sequence[str]) -> dict[str, Any] | None:
    """Return order and log-strengths (the first model's is 0) with intervals over prompts; None with under two prompts.

    ``separated``: some never lost to the rest; then only the prior holds the strengths finite and they are no sizes.
    Where answers do not connect all models, there are no strengths and the sentence says so.
    """
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
    fitted = davidson(counts.sum(axis=0))
    if fitted is None:
        return {"connected": False, "sentence": "The answers do not connect all models, so there is no ranking yet."}
    bootstrap = Bootstrap(len(prompts), seed="study ranking")
    drawn = [davidson(table) for table in np.tensordot(bootstrap.weights[:_DRAWS], counts, axes=1)]
    values = np.array([one.values for one in drawn if one is not None])
    strengths = {
        model: bootstrap.around(float(fitted.values[place]), values[:, place]).as_dict()
        for place, model in enumerate(models)
    }
    order = sorted(models, key=lambda model: -strengths[model]["mean"])
    chain = order[0]
    for better, worse in pairwise(order):
        places = [models.index(model) for model in (better, worse)]
        gap = bootstrap.around(float(np.subtract(*fitted.values[places])), np.subtract(*values[:, places].T))
        chain += f"{' > ' if gap.low > _ROUNDING else ' ≈ '}{worse}"
    said = f"Bradley-Terry with ties over {len(prompts)} prompts: {chain}{' (≈: not told apart)' * ('≈' in chain)}."
    if fitted.separated:
        said += " Some never lost to the rest: their strengths are held finite by the prior and are no sizes."
    return {
        "order": order,
        "strengths": strengths,
        "tie_parameter": float(np.exp(fitted.log_tie)),
        "connected": True,
        "separated": fitted.separated,
        "sentence": said,
    }
