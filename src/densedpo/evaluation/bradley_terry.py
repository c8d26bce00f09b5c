"""Ranking of three models or more: Bradley-Terry with ties (Davidson 1970), by penalised maximum likelihood.

    P(i beats j) = exp(s_i) / D,   P(tie) = nu exp((s_i + s_j) / 2) / D,   D = the sum of the three numerators

Without a prior, a model that never lost has no finite strength, and solvers then return whatever they stopped at.
Here a normal prior (sd 3 on every strength and on log nu) keeps the answer finite and unique, and ``separated`` says
when only the prior did. The log posterior is concave, so a few Newton steps find its one maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from densedpo.evaluation.paired import Bootstrap, Floats, Table
from densedpo.evaluation.statistics import Better, signs

_PRIOR_SD = 3.0
_NEWTON_STEPS = 30
_LONGEST_STEP = 2.0
_DRAWS = 400
_ROUNDING = 1e-6  # where all are ties, strengths differ by rounding alone


@dataclass(frozen=True)
class Strengths:
    """Log-strengths [K], the first model's being 0, and log nu; ``separated``: some models never lost to the rest."""

    values: Floats
    log_tie: float
    separated: bool


def davidson(counts: Floats) -> Strengths | None:
    """Fit strengths to counts of outcomes.

    Args:
        counts: [K (K - 1) / 2, 3] wins of the first, ties, wins of the second, for the pairs of K models in order.

    Returns:
        None where the comparisons do not connect all models: then strengths of different parts cannot be compared.
    """
    parts, separated = _connections(counts)
    if parts > 1:
        return None
    found = _fit(counts[None])[0]
    return Strengths(found[:-1] - found[0], float(found[-1]), separated)


def rank(table: Table, score: str, better: Better, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return the entry ``bradley_terry``: strengths by the main quality, prompt by prompt, with intervals.

    None with fewer than three models or two prompts.
    """
    if len(table.models) < 3 or len(table.prompts) < 2:
        return None
    place = table.names.index(score)
    found = np.stack([signs(a, b, better) for a, b in combinations(table.means[:, :, place], 2)], axis=1)  # [P, pairs]
    outcomes = np.stack([found > 0, found == 0, found < 0], axis=2).astype(np.float64)
    return {"score": score} | rank_outcomes(outcomes, table.models, bootstrap)


def rank_outcomes(outcomes: Floats, models: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return order and log-strengths of models (the first one's is 0), with intervals over prompts, and a sentence.

    Where the outcomes do not connect all models there are no strengths, and the sentence says so. ``separated``: some
    never lost to the rest; then only the prior holds the strengths finite and they are no sizes.

    Args:
        outcomes: [P, K (K - 1) / 2, 3] counts by prompt, as ``davidson`` takes them.
        models: K names.
        bootstrap: over the P prompts.
    """
    fitted = davidson(outcomes.sum(axis=0))
    if fitted is None:
        return {"connected": False, "sentence": "The answers do not connect all models, so there is no ranking yet."}
    draws = np.tensordot(bootstrap.weights[:_DRAWS], outcomes, axes=1)
    drawn = _fit(draws[[_connections(counts)[0] == 1 for counts in draws]])[:, :-1]
    drawn = drawn - drawn[:, :1]
    strengths = {
        model: bootstrap.around(float(fitted.values[place]), drawn[:, place]).as_dict()
        for place, model in enumerate(models)
    }
    order = sorted(range(len(models)), key=lambda place: -round(float(fitted.values[place]) / _ROUNDING))
    chain = models[order[0]]
    for better, worse in pairwise(order):
        gap = bootstrap.around(float(fitted.values[better] - fitted.values[worse]), drawn[:, better] - drawn[:, worse])
        chain += f"{' > ' if gap.low > _ROUNDING else ' ≈ '}{models[worse]}"
    said = f"Bradley-Terry with ties over {len(outcomes)} prompts: {chain}{' (≈: not told apart)' * ('≈' in chain)}."
    if fitted.separated:
        said += " Some never lost to the rest: their strengths are held finite by the prior and are no sizes."
    return {
        "order": [models[place] for place in order],
        "strengths": strengths,
        "tie_parameter": float(np.exp(fitted.log_tie)),
        "connected": True,
        "separated": fitted.separated,
        "sentence": said,
    }


def _connections(counts: Floats) -> tuple[int, bool]:
    """Return into how many parts the models fall that never met, and whether some never lost to the rest."""
    models = _models(len(counts))
    beaten = np.zeros((models, models))
    for (first, second), (wins, ties, losses) in zip(combinations(range(models), 2), counts, strict=True):
        beaten[first, second], beaten[second, first] = wins + ties, losses + ties
    parts, blocks = (connected_components(beaten, connection=kind)[0] for kind in ("weak", "strong"))
    return int(parts), bool(blocks > parts)


def _models(pairs: int) -> int:
    models = round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    assert models * (models - 1) // 2 == pairs and models >= 2, pairs
    return models


def _features(pairs: Sequence[tuple[int, int]], models: int) -> Floats:
    """Return [pairs, 3, K + 1]: the linear term of each outcome in (strengths, log nu)."""
    features = np.zeros((len(pairs), 3, models + 1))
    for place, (first, second) in enumerate(pairs):
        features[place, 0, first] = features[place, 2, second] = 1
        features[place, 1, [first, second]] = 0.5
        features[place, 1, -1] = 1
    return features


def _fit(counts: Floats) -> Floats:
    """Return [B, K + 1] strengths and log nu of B tables of counts [B, pairs, 3]."""
    models = _models(counts.shape[1])
    features = _features(list(combinations(range(models), 2)), models)
    totals = counts.sum(axis=2)
    found = np.zeros((len(counts), models + 1))
    prior = np.eye(models + 1) / _PRIOR_SD**2
    for _ in range(_NEWTON_STEPS):
        logits = found @ features.reshape(-1, models + 1).T
        logits = logits.reshape(len(counts), -1, 3)
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        chance = odds / odds.sum(axis=2, keepdims=True)
        slope = np.einsum("bpo,pok->bk", counts - totals[:, :, None] * chance, features) - found @ prior
        mean = np.einsum("bpo,pok->bpk", chance, features)
        second = np.einsum("bp,bpo,pok,pol->bkl", totals, chance, features, features, optimize=True)
        curvature = second - np.einsum("bp,bpk,bpl->bkl", totals, mean, mean, optimize=True) + prior
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        found = found + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < 1e-10:
            break
    return found
