"""What admins see: progress, agreement and flags of everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sql

from densedpo.labels.agreement import agreement_of
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.database import Database
from densedpo.labels.people.office import Office
from densedpo.labels.people.progress import team_progress
from densedpo.labels.schema import claims, queue

_EDGES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_HOUR_S = 3600.0


def overview(office: Office) -> dict[str, Any]:
    """Return the admins' view as plain values for JSON."""
    events = [event for event in office.store.current() if event.source in ("person", "judge")]
    measured = agreement_of(events, office.gold, office.settings.label.segment_s)
    quality = {person["author"]: person for person in measured["people"]}
    progress = progress_of(office)
    return {
        "team": progress["team"],
        "people": [person | _rates(quality.get(person["annotator"])) for person in progress["people"]],
        "agreement": measured["agreement"],
        "couples": measured["couples"],
        "against_judges": measured["against_judges"],
        "answers": measured["answers"],
        "dwell": _dwell(events),
        "disagreements": _disagreements(office.store.database),
    }


def progress_of(office: Office) -> dict[str, Any]:
    """Return how far the team and each of its people are: counts and times, nothing of what they said."""
    done, total = team_progress(office.store.database, office.settings.serve.overlap)
    times = _times(office.store.database)
    return {
        "team": {
            "done": done,
            "total": total,
            "seconds_left": _seconds_left(times, total - done),
            "by_day": _by_day(times),
        },
        "people": [
            _person(name, role, times.get(name, []))
            for name, role in sorted({person.name: person.role for person in office.roster.everybody()}.items())
        ],
    }


def _person(name: str, role: str, times: Sequence[float]) -> dict[str, Any]:
    shown: dict[str, Any] = {"annotator": name, "role": role, "done": len(times), "flags": []}
    shown["last_seen"] = datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
    return shown


def _rates(quality: Mapping[str, Any] | None) -> dict[str, Any]:
    if quality is None:
        return {}
    names = ("tie_rate", "first_rate", "gold", "self_consistency", "flags")
    return {key: quality[key] for key in names} | {"median_dwell_s": quality["dwell_s"]["value"]}


def _times(database: Database) -> dict[str, list[float]]:
    wanted = sql.select(claims.c.annotator, claims.c.submitted_s).where(claims.c.submitted_s.is_not(None))
    times: dict[str, list[float]] = {}
    with database.reading() as connection:
        for annotator, submitted_s in connection.execute(wanted):
            times.setdefault(annotator, []).append(submitted_s)
    return times


def _seconds_left(times: Mapping[str, Sequence[float]], left: int) -> float | None:
    """Return how long the rest takes at the pace of the last hour in which anybody worked."""
    everything = sorted(time for own in times.values() for time in own)
    recent = [time for time in everything if time > everything[-1] - _HOUR_S] if everything else []
    if len(recent) < 2:
        return None
    return left * (recent[-1] - recent[0]) / (len(recent) - 1)


def _by_day(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    days = Counter(str(datetime.fromtimestamp(time, UTC).date()) for own in times.values() for time in own)
    return [{"day": day, "done": days[day]} for day in sorted(days)]


def _dwell(events: Sequence[AnswerEvent]) -> dict[str, list[float] | list[int]]:
    given = [event.dwell_s for event in events if event.dwell_s is not None]
    counts, _ = np.histogram(np.clip(given, _EDGES_S[0], _EDGES_S[-1]), bins=_EDGES_S)
    return {"edges_s": list(_EDGES_S), "counts": [int(count) for count in counts]}


def _disagreements(database: Database) -> dict[str, int]:
    wanted = sql.select(queue.c.disagreement, sql.func.count().label("pairs")).group_by(queue.c.disagreement)
    with database.reading() as connection:
        counts = {row.disagreement: row.pairs for row in connection.execute(wanted)}
    return {"open": counts.get(1, 0), "resolved": counts.get(2, 0)}
