"""How good each person's answers are in a study: controls, repeats, sides, speed, and the flags that follow.

The measures are those of labelling (labels/quality.py). Only speed differs: whoever has watched a pair answers four
questions within seconds, so what counts is the time spent on the pair against the length of its videos.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from densedpo.evaluation.study.plan import Plan
from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.quality import CONSISTENCY_FLOOR, GOLD_FLOOR, SAME_RUN, SIDE_REACH, people_quality
from densedpo.labels.reliability import Estimate, median, share

FAST_SHARE = 0.5
FAST_LEAST = 8
FAST_LENGTHS = 0.5
RULES = (
    f"too fast: over {FAST_SHARE:.0%} of at least {FAST_LEAST} pairs done in under {FAST_LENGTHS:g} times the length "
    f"of their videos; same key: one side {SAME_RUN} times in a row, ties left out; controls: ties surely under "
    f"{GOLD_FLOOR:.0%} where one video is shown twice; inconsistent: self-consistency surely under "
    f"{CONSISTENCY_FLOOR:.0%}; one-sided: first side surely chosen under {0.5 - SIDE_REACH:.0%} or over "
    f"{0.5 + SIDE_REACH:.0%}"
)


def raters(events: Sequence[AnswerEvent], plan: Plan) -> list[dict[str, Any]]:
    """Return the measures of every person among the current ``events`` about items of the plan, by name.

    Keys: person, answers, items, controls (share of ties where one video was shown twice), self_consistency,
    first_rate, tie_rate, with_others (share of the others' answers to the same that are equal), item_s (median seconds
    a pair), flags.
    """
    known = [event for event in events if event.pair_id in plan.items and event.answer is not None]
    every: dict[int, Answer] = dict.fromkeys(range(len(plan.questions)), "tie")
    controls = {item.item_id: every for item in plan.of("same_video")}
    found = []
    # The time of an answer says nothing here, see above. Nor do ties in a row: models may be alike, and leaving out
    # whoever says so would bend the result. Marked as offered, they count for no run of the same key.
    seen = [replace(event, dwell_s=None, offered=event.answer == "tie") for event in known]
    for person in people_quality(seen, controls):
        spent = _spent(event for event in known if event.author == person.author)
        times = [seconds for seconds, _ in spent]
        fast = sum(seconds < FAST_LENGTHS * length for seconds, length in spent)
        flags = ["controls" if flag == "gold" else flag for flag in person.flags]
        if len(spent) >= FAST_LEAST and fast > FAST_SHARE * len(spent):
            flags.insert(0, "too fast")
        found.append(
            {
                "person": person.author,
                "answers": person.answers,
                "items": len({event.pair_id for event in known if event.author == person.author}),
                "controls": person.gold.as_dict(),
                "self_consistency": person.self_consistency.as_dict(),
                "first_rate": person.first_rate.as_dict(),
                "tie_rate": person.tie_rate.as_dict(),
                "with_others": _with_others(known, person.author).as_dict(),
                "item_s": median(times, "timed pairs").as_dict(),
                "flags": flags,
            }
        )
    return found


def _with_others(events: Sequence[AnswerEvent], person: str) -> Estimate:
    votes = [event for event in events if event.usable]
    own = {(event.pair_id, event.segment): event.answer for event in votes if event.author == person}
    met = [e for e in votes if e.author != person and (e.pair_id, e.segment) in own]
    same = [event.answer == own[event.pair_id, event.segment] for event in met]
    return share(same, [event.pair_id for event in met], "answers that others gave too")


def _spent(events: Iterable[AnswerEvent]) -> list[tuple[float, float]]:
    """Return, for each pair and task of one person, the seconds spent on it and the length of its videos."""
    spent: dict[tuple[str, str], list[AnswerEvent]] = defaultdict(list)
    for event in events:
        if event.dwell_s is not None:
            spent[event.pair_id, event.task].append(event)
    return [(sum(event.dwell_s or 0.0 for event in own), own[0].end_s) for own in spent.values()]
