"""In which order pairs are offered to people: as stored, shuffled, by what the judges made of them, or planned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from densedpo.config import Settings
from densedpo.keys import stream
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.consensus import label_of
from densedpo.labels.planning.order import planned_pairs
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project


def work_order(project: Project, pair_ids: Iterable[str], store: LabelStore, settings: Settings) -> list[str]:
    """Return the pairs in the order of ``serve.order``.

    ``uncertain`` starts with the pairs on whose segments judges disagree or are least sure, ``useful`` with those they
    prefer a side of in most segments. Pairs that no judge saw come first in either: nothing is known about them.
    ``plan`` follows ``densedpo label plan``, with pairs that it does not name last.

    Raises:
        LabelError: if the order is ``plan`` and there is none.
    """
    listed = list(pair_ids)
    order = settings.serve.order
    if order == "table":
        return listed
    if order == "plan":
        ranks = planned_pairs(project)
        return sorted(listed, key=lambda name: ranks.get(name, len(ranks)))
    if order == "shuffled":
        return [listed[int(index)] for index in stream(settings.seed, "labelling order").permutation(len(listed))]
    strengths = judged_strength([event for event in store.current() if event.source == "judge"])
    sign = 1 if order == "uncertain" else -1
    known = sorted((pair_id for pair_id in listed if pair_id in strengths), key=lambda name: sign * strengths[name])
    return [pair_id for pair_id in listed if pair_id not in strengths] + known


def judged_strength(events: Iterable[AnswerEvent]) -> dict[str, float]:
    """Return how decided the judges are about each pair, in [0, 1].

    Mean over segments of |mean over judges of label x confidence|: 0 where all say tie or they cancel each other.
    """
    signed: dict[tuple[str, int], list[float]] = defaultdict(list)
    for event in events:
        if event.usable and event.answer is not None:
            confidence = 1.0 if event.confidence is None else event.confidence
            signed[event.pair_id, event.segment].append(label_of(event.answer) * confidence)
    by_pair: dict[str, list[float]] = defaultdict(list)
    for (pair_id, _), values in signed.items():
        by_pair[pair_id].append(abs(sum(values) / len(values)))
    return {pair_id: sum(values) / len(values) for pair_id, values in by_pair.items()}
