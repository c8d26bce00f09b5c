"""Win, tie and lose of one pairing and question: counts, shares and net win rate with intervals, a test, agreement.

Intervals draw whole prompts again, with all seeds and people of a prompt: prompts are what was chosen independently
(paper, section 5: the user study on VideoJAM-bench; intervals are ours). Every rate stands beside the agreement of
those who gave it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from densedpo.evaluation.paired import Bootstrap
from densedpo.evaluation.statistics import Outcomes, half_width, sign_test
from densedpo.evaluation.study.votes import Vote
from densedpo.intervals import Interval, wilson
from densedpo.labels.reliability import absent, krippendorff, share

OUTCOMES = {"win": 1, "tie": 0, "lose": -1}


def rates(votes: Sequence[Vote]) -> dict[str, Any]:
    """Return counts, shares, net win rate, sign test and agreement of votes on one question about one pairing.

    ``win`` is for side a. Shares are of the answers that judged. The net win rate is (wins - losses) / answers. The
    sign test counts each prompt once, by the sign of its sum.
    """
    judged = [vote for vote in votes if vote.value is not None]
    values = [_value(vote) for vote in judged]
    prompts = [vote.item.prompt_id for vote in judged]
    net = net_win(values, prompts)
    sums: dict[str, int] = defaultdict(int)
    for value, prompt in zip(values, prompts, strict=True):
        sums[prompt] += value
    by_prompt = Outcomes(*(sum(_sign(total) == wanted for total in sums.values()) for wanted in (1, 0, -1)))
    return {
        **{outcome: values.count(value) for outcome, value in OUTCOMES.items()},
        "cannot_judge": len(votes) - len(judged),
        "shares": {
            outcome: _plain(share_of([value == one for one in values], prompts)) for outcome, value in OUTCOMES.items()
        },
        "net_win": _plain(net),
        "half_width": half_width(net),
        "by_prompt": vars(by_prompt),
        "p": sign_test(by_prompt),
        "people": len({vote.person for vote in judged}),
        "prompts": len(sums),
        "agreement": agreement(judged),
    }


def net_win(values: Sequence[int], prompts: Sequence[str]) -> Interval | None:
    """Return the mean of +1, 0 and -1 with its interval; None with fewer than two prompts.

    Where all answers are the same, every draw is too, and the bootstrap would claim certainty: then the interval is
    Wilson's for the share of that answer, with one trial a prompt.
    """
    count = len(set(prompts))
    if count < 2:
        return None
    if len(set(values)) > 1:
        return _mean(values, prompts, lowest=-1.0)
    certain = wilson(count, count)
    assert certain is not None
    if values[0] == 0:
        return Interval(0.0, certain.low - 1, 1 - certain.low, count)
    low = 2 * certain.low - 1
    return Interval(1.0, low, 1.0, count) if values[0] > 0 else Interval(-1.0, -1.0, -low, count)


def share_of(hits: Sequence[bool], prompts: Sequence[str]) -> Interval | None:
    """Return the share of hits with its interval; Wilson's where all are equal. None with fewer than two prompts."""
    count = len(set(prompts))
    if count < 2:
        return None
    if len(set(hits)) == 1:
        return wilson(count if hits[0] else 0, count)
    return _mean([int(hit) for hit in hits], prompts, lowest=0.0)


def _mean(values: Sequence[int], prompts: Sequence[str], lowest: float) -> Interval | None:
    """Return the mean of values from ``lowest`` to 1 with the evaluation's own interval over prompts (paired.py)."""
    names, index = np.unique(prompts, return_inverse=True)
    sums, answers = np.bincount(index, weights=values), np.bincount(index)
    found = _bootstrap(len(names)).interval(sums.astype(np.float64), answers.astype(np.float64))
    assert found is not None  # two prompts, and every prompt has an answer
    # widened for few prompts, an interval may reach beyond what there is
    return replace(found, low=max(lowest, found.low), high=min(1.0, found.high))


@lru_cache(maxsize=64)
def _bootstrap(count: int) -> Bootstrap:
    return Bootstrap(count, seed="study")


def agreement(judged: Sequence[Vote]) -> dict[str, Any]:
    """Return raw agreement and Krippendorff's alpha, nominal and ordinal (lose < tie < win), of people on items."""
    people = {vote.person for vote in judged}
    if len(people) < 2:
        missing = absent("fewer than two people have answered").as_dict()
        return dict.fromkeys(("raw", "alpha_nominal", "alpha_ordinal"), missing)
    units = _units(judged)
    couples = [(prompt, x == y) for (prompt, _), given in units.items() for x, y in combinations(given, 2)]
    return {
        "raw": share([same for _, same in couples], [prompt for prompt, _ in couples], "shared answers").as_dict(),
        "alpha_nominal": krippendorff(units, 3, "nominal").as_dict(),
        "alpha_ordinal": krippendorff(units, 3, "ordinal").as_dict(),
    }


def _units(judged: Sequence[Vote]) -> Mapping[tuple[str, int], list[int]]:
    """Return what different people said, as 0, 1, 2, by (prompt, number of item and question)."""
    numbers: dict[tuple[str, str], int] = {}
    units: dict[tuple[str, int], list[int]] = defaultdict(list)
    for vote in judged:
        number = numbers.setdefault((vote.item.item_id, vote.question), len(numbers))
        units[vote.item.prompt_id, number].append(_value(vote) + 1)
    return units


def _value(vote: Vote) -> int:
    assert vote.value is not None
    return vote.value


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _plain(interval: Interval | None) -> dict[str, float | int] | None:
    return None if interval is None else interval.as_dict()
