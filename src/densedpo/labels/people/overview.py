"""What admins see: progress, agreement and flags of everybody."""

from __future__ import annotations

from typing import Any

from densedpo.labels.people.office import Office
from densedpo.labels.people.progress import team_progress


def overview(office: Office) -> dict[str, Any]:
    """Return the admins' view as plain values for JSON."""
    done, total = team_progress(office.store.database, office.settings.serve.overlap)
    people = [
        {"annotator": person.name, "role": person.role, "done": 0, "flags": []} for person in office.roster.everybody()
    ]
    return {"team": {"done": done, "total": total, "seconds_left": None, "by_day": []}, "people": people}
