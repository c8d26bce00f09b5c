"""Which answers are meant: usable ones of one source kind, one segment length and one judge, never a silent mixture.

Freezing, auditing and exporting labels all choose through here, so that they speak of the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from densedpo.errors import LabelError
from densedpo.labels.answers import SOURCES, AnswerEvent
from densedpo.labels.store import current_answers
from densedpo.observe import warn
from densedpo.store.project import Project
from densedpo.store.tables import Row


def select(
    events: Iterable[AnswerEvent],
    source: str | None,
    segment_s: float | None,
    author: str | None = None,
    *,
    keep_untrusted: bool = False,
) -> list[AnswerEvent]:
    """Return the usable events of one source kind and one segment length, and of ``author`` alone if one is named.

    People vote, and so do simulated annotators; judges do not: of several, one has to be named. Untrusted answers (of a
    judge that failed its self-test, say) are left out with a warning; with ``keep_untrusted`` they return as trusted.

    Raises:
        LabelError: if nothing is left, or several kinds, lengths or judges are there and none was named.
    """
    if source is not None and source not in SOURCES:
        raise LabelError(f"source: {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    meant = [event for event in events if author in (None, event.author)]
    usable = [event for event in meant if event.usable]
    doubtful = [replace(event, trusted=True) for event in meant if not event.trusted]
    doubtful = [event for event in doubtful if event.usable]
    if keep_untrusted:
        usable, doubtful = usable + doubtful, []
    kinds = sorted({event.source for event in usable})
    if source is None and len(kinds) > 1:
        raise LabelError(f"answers come from {' and '.join(kinds)}, which are never mixed; name one with --source")
    chosen = [event for event in usable if source in (None, event.source)]
    lengths = sorted({event.segment_s for event in chosen})
    if segment_s is None and len(lengths) > 1:
        named = " and ".join(f"{length:g}" for length in lengths)
        raise LabelError(f"answers speak of segments of {named} s, which are never mixed; name one with --segment-s")
    chosen = [event for event in chosen if segment_s in (None, event.segment_s)]
    doubtful = [event for event in doubtful if source in (None, event.source) and segment_s in (None, event.segment_s)]
    untrusted = ", ".join(f"{count} by {name}" for name, count in Counter(event.author for event in doubtful).items())
    judges = sorted({event.author for event in chosen if event.source == "judge"})
    if len(judges) > 1:
        raise LabelError(f"answers come from the judges {' and '.join(judges)}, which are never mixed; name one author")
    if not chosen:
        wanted = (f" from {source}" if source else "") + (f" by {author}" if author else "")
        wanted += f" on segments of {segment_s:g} s" if segment_s else ""
        if untrusted:
            raise LabelError(f"no trusted answers{wanted}: {untrusted} never count; look, or freeze --keep-flagged")
        raise LabelError(f"no usable answers{wanted}; run `densedpo label judge` or `densedpo label import` first")
    if untrusted:
        warn(f"untrusted answers are left out: {untrusted}")
    return chosen


def selected_answers(
    project: Project,
    pairs: Sequence[Row],
    source: str | None,
    segment_s: float | None,
    author: str | None = None,
    *,
    keep_untrusted: bool = False,
) -> list[AnswerEvent]:
    """Return the project's current answers about ``pairs`` (rows with pair_id), chosen as ``select`` does.

    Raises:
        LabelError: as ``select``.
    """
    known = {pair["pair_id"] for pair in pairs}
    answers = current_answers(project.label_store)
    strangers = {event.pair_id for event in answers} - known
    if strangers:
        warn(f"{len(strangers)} labelled pairs are no longer in {project.pairs_table}; their answers are left out")
    answers = [event for event in answers if event.pair_id in known]
    return select(answers, source, segment_s, author, keep_untrusted=keep_untrusted)
