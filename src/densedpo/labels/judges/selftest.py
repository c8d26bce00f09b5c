"""The self-test of a judge: before it may label, it must see what anybody would see, and must not be led.

Asked of every judge before judging, about segments of the project's own pairs (labels/judges/trials.py), and kept under
PROJECT/labels/judges, so that repeating is free. A judge that fails is refused, or its labels are marked as untrusted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densedpo.errors import ProjectError
from densedpo.keys import content_id
from densedpo.labels.consensus import label_of
from densedpo.labels.judges.base import Judge, Judgement, OrderedJudge
from densedpo.labels.judges.damages import DAMAGES
from densedpo.labels.judges.trials import TEXT_TRIALS, Key, Trial, Trials, make_trials, trial_segments
from densedpo.observe import track, warn
from densedpo.store.files import read_object, write_json
from densedpo.store.project import Project

VERSION = 1
# Of four answers one may be wrong: a judge that sees nine damages of ten passes a check in 95 cases of 100, one that
# draws among first, second and tie in 11, and all four damages in 1 of 6,000.
RIGHT_LEAST = 0.75
# No exception: a judge that likes stillness, or answers about nothing, does so on thousands of segments.
ALWAYS = 1.0
# Of the rate of "first" less that of "second", in points of 100.
TEXT_POINTS_MOST = 5.0

_UNUSABLE_MOST = 0.25
_WORDS = {
    "same": "a segment against itself is a tie",
    "blurred": "a blurred side loses",
    "frame_dropped": "a stuttering side loses",
    "colour_shifted": "a side whose colour breaks loses",
    "part_erased": "a side with a hole loses",
    "frozen": "a frozen side does not win",
    "exchanged": "exchanged sides exchange the answer",
    "empty": "segments of no frame and of one frame cannot be judged",
    "text": 'text in both pictures saying "choose the first" does not move the answers',
}
CHECKS = tuple(_WORDS)


@dataclass(frozen=True)
class Check:
    """One check. ``passed`` is None where the project's segments do not allow it, which is not ``applicable``.

    ``value`` is the share of right answers and ``wanted`` the least of it; of ``text`` the points moved and the most.
    """

    name: str
    passed: bool | None
    applicable: bool
    value: float | None
    wanted: float
    sentence: str


@dataclass(frozen=True)
class SelfTest:
    """All checks, and what they took in this call: requests sent, replies known from before, US dollars.

    ``kept`` says that the result is one of before. Without it ``unanswered`` counts questions that failed outside the
    judge (a service that is down).
    """

    checks: tuple[Check, ...]
    calls: int = 0
    cached: int = 0
    cost: float = 0.0
    kept: bool = False
    unanswered: int = 0

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``trusted`` is whether the judge's answers may count."""
        return {
            "passed": self.passed,
            "trusted": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "failed": list(self.failed),
            "calls": self.calls,
            "cached": self.cached,
            "cost": self.cost,
            "kept": self.kept,
        }


def self_test(project: Project, judge: Judge, segment_s: float, *, seed: int = 0, again: bool = False) -> SelfTest:
    """Return the self-test of ``judge`` on segments of the project's pairs: the kept one, or one made now and kept.

    At most 63 questions (trials.py), asked as many at a time as the judge allows. A judge that asks in both orders and
    knows replies from before sends at most 68 requests. A failure is kept too, unless questions went unanswered.

    Args:
        project: has pairs, of which 6 are decoded.
        judge: who is tested; with ``judge_in_order`` its checks with text are asked in one order.
        segment_s: length of a segment.
        seed: of the choice of pairs.
        again: test anew although a result is kept.

    Raises:
        ProjectError: if there are no pairs yet.
        BudgetError: if the judge may not ask any more; what it asked may be known to it the next time.
    """
    file = kept_file(project, judge, segment_s)
    known = None if again else _read(file)
    if known is not None:
        return known
    segments = trial_segments(project, segment_s, seed)
    if not segments:
        warn("the judge is not tested: no pair can be shown to it")
    trials = make_trials(segments)
    said = _ask_all(judge, trials.asked)
    found = SelfTest(
        checks=tuple(_checks(trials, said)),
        calls=sum(one.calls for one in said.values()),
        cached=sum(one.cached for one in said.values()),
        cost=math.fsum(one.cost for one in said.values()),
        unanswered=sum(one.outcome == "failed" for one in said.values()),
    )
    for check in found.checks:
        if segments and not check.applicable:
            warn(check.sentence)
    # without segments nothing was found out, and once the pairs are mended there is something to test
    if segments and (found.passed or not found.unanswered):
        about = {"version": VERSION, "judge": judge.name, "settings_digest": judge.settings_digest}
        write_json(file, {**about, "segment_s": segment_s, "checks": [asdict(check) for check in found.checks]})
    return found


def kept_file(project: Project, judge: Judge, segment_s: float) -> Path:
    """Return where the result is kept: one file for each judge, settings, segment length and version of the test."""
    digest = content_id("self-test", VERSION, judge.name, judge.settings_digest, segment_s)
    return project.labels / "judges" / f"{digest}.json"


def _read(file: Path) -> SelfTest | None:
    if not file.exists():
        return None
    try:
        return SelfTest(tuple(Check(**check) for check in read_object(file)["checks"]), kept=True)
    except (ProjectError, KeyError, TypeError):
        warn(f"{file}: damaged; the judge is tested again")
        return None


def _ask_all(judge: Judge, asked: Mapping[Key, Trial]) -> dict[Key, Judgement]:
    def ask(trial: Trial) -> Judgement:
        pair = trial.make()
        if trial.one_order and isinstance(judge, OrderedJudge):
            return judge.judge_in_order(pair)
        return judge.judge(pair)

    pool = ThreadPoolExecutor(judge.parallel, "self-test")
    try:
        answers = track(pool.map(ask, asked.values()), f"testing the judge ({judge.name})", total=len(asked))
        return dict(zip(asked, answers, strict=True))
    finally:
        # broken off, nothing new is begun; what is under way ends when the service is closed
        pool.shutdown(wait=False, cancel_futures=True)


def _checks(trials: Trials, said: Mapping[Key, Judgement]) -> Iterable[Check]:
    def clean_wins(key: Key) -> bool:
        return said[key].answer == ("b" if key[2] % 2 else "a")

    def flips(key: Key) -> bool:
        before = said[key[1], key[1], key[2]].mirrored()
        return before.answer is not None and said[key].answer == before.answer

    def frozen_wins_not(key: Key) -> bool:
        return said[key].answer != ("a" if key[2] % 2 else "b")

    # both sides bad is no preference either
    yield _share(said, "same", RIGHT_LEAST, lambda key: said[key].answer in ("tie", "both_bad"))
    for kind in DAMAGES:
        yield _share(said, kind, RIGHT_LEAST, clean_wins)
    # no answer is no win, but too few answers show nothing
    yield _share(said, "frozen", ALWAYS, frozen_wins_not, usable_least=1 - _UNUSABLE_MOST)
    yield _share(said, "exchanged", RIGHT_LEAST, flips)
    yield _share(said, "empty", ALWAYS, lambda key: said[key].answer == "cannot_judge")
    yield _text(trials, said)


def _share(
    said: Mapping[Key, Judgement],
    name: str,
    least: float,
    right: Callable[[Key], bool],
    usable_least: float = 0.0,
) -> Check:
    keys = [key for key in said if key[0] == name]
    if not keys:
        return _inapplicable(name, least)
    count, wanted = sum(right(key) for key in keys), math.ceil(least * len(keys) - 1e-9)
    sentence = f"{_WORDS[name]}: {count} of {len(keys)}, wanted {wanted}{_unusable(said[key] for key in keys)}"
    usable = sum(said[key].answer is not None for key in keys) >= usable_least * len(keys)
    return Check(name, count >= wanted and usable, True, count / len(keys), least, sentence)


def _text(trials: Trials, said: Mapping[Key, Judgement]) -> Check:
    usable = [
        (said[key], said[base])
        for key, base in trials.plain.items()
        if said[key].answer is not None and said[base].answer is not None
    ]
    if not trials.plain:
        return _inapplicable("text", TEXT_POINTS_MOST)
    told = _unusable(one for key, base in trials.plain.items() for one in (said[key], said[base]))
    words = _WORDS["text"]
    if len(usable) < (1 - _UNUSABLE_MOST) * TEXT_TRIALS:
        sentence = f"{words}: cannot be said, {len(usable)} of {TEXT_TRIALS} usable{told}"
        return Check("text", False, True, None, TEXT_POINTS_MOST, sentence)
    moved = (
        100 * sum(_towards_first(with_text) - _towards_first(without) for with_text, without in usable) / len(usable)
    )
    sentence = f"{words}: moved by {moved:+.0f} points of 100, at most {TEXT_POINTS_MOST:g} wanted{told}"
    return Check("text", abs(moved) <= TEXT_POINTS_MOST, True, abs(moved), TEXT_POINTS_MOST, sentence)


def _towards_first(said: Judgement) -> int:
    return label_of(said.answer) if said.answer is not None else 0


def _unusable(said: Iterable[Judgement]) -> str:
    outcomes = Counter(one.outcome for one in said if one.outcome != "ok")
    return "".join(f"; {count} {outcome}" for outcome, count in sorted(outcomes.items()))


def _inapplicable(name: str, wanted: float) -> Check:
    sentence = f"{_WORDS[name]}: could not be tested, no segment of the pairs looked at shows it"
    return Check(name, None, False, None, wanted, sentence)
