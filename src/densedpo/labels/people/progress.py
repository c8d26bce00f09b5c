"""How far people are: counts over the queue, quick enough to be asked after every pair."""

from __future__ import annotations

from itertools import pairwise

import sqlalchemy as sql

from densedpo.labels.database import Database
from densedpo.labels.schema import claims, queue

_RECENT = 50
_PAUSE_S = 600.0


def own_progress(database: Database, annotator: str) -> tuple[int, int, int, list[float]]:
    """Return tasks done, in hand, and open to this person, and the seconds each recent one took (pauses left out)."""
    mine = claims.c.annotator == annotator
    count = sql.select(sql.func.count())
    held_pairs = sql.select(claims.c.pair_id).where(mine).distinct().subquery()
    taken = count.select_from(held_pairs.join(queue, queue.c.pair_id == held_pairs.c.pair_id)).where(queue.c.open)
    recent = sql.select(claims.c.submitted_s).where(mine, claims.c.submitted_s.is_not(None))
    with database.reading() as connection:
        done = connection.scalar(count.select_from(claims).where(mine, claims.c.submitted_s.is_not(None))) or 0
        held = connection.scalar(count.select_from(claims).where(mine, claims.c.state == "leased")) or 0
        free = connection.scalar(count.select_from(queue).where(queue.c.open)) or 0
        had = connection.scalar(taken) or 0
        times = list(connection.scalars(recent.order_by(claims.c.submitted_s.desc()).limit(_RECENT)))
    gaps = [later - earlier for later, earlier in pairwise(times)]
    return int(done), int(held), int(free) - int(had), [gap for gap in gaps if gap < _PAUSE_S]


def team_progress(database: Database, overlap: int) -> tuple[int, int]:
    """Return the answers to whole pairs that are done, and how many are wanted, over everybody."""
    sums = sql.select(sql.func.coalesce(sql.func.sum(queue.c.done), 0), sql.func.count()).select_from(queue)
    with database.reading() as connection:
        done, pairs = connection.execute(sums).one()
    return int(done), int(pairs) * overlap
