"""Everything one running server holds, put together from a project and its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from densedpo.config import Settings
from densedpo.errors import LabelError
from densedpo.labels.alike import why_not_ask
from densedpo.labels.answers import Answer
from densedpo.labels.gold import load_gold
from densedpo.labels.order import work_order
from densedpo.labels.people.asks import Card, Segments, grid_of
from densedpo.labels.people.assign import Assigner
from densedpo.labels.people.cards import cards
from densedpo.labels.people.desk import Desk
from densedpo.labels.people.films import Films
from densedpo.labels.people.proxies import PairProxies, pair_proxies, prepare_proxies
from densedpo.labels.people.roster import Roster, server_secret
from densedpo.labels.queue import Queue
from densedpo.labels.store import LabelStore
from densedpo.observe import warn
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


@dataclass(frozen=True)
class Office:
    """The parts of a running server."""

    project: Project
    settings: Settings
    secret: bytes
    store: LabelStore
    queue: Queue
    roster: Roster
    desk: Desk
    films: Films
    gold: Mapping[str, Mapping[int, Answer]]

    @property
    def needs_token(self) -> bool:
        """Whether people sign in with an invitation: once anybody was invited, or others can reach the server."""
        return self.settings.serve.public_url is not None or self.roster.has_invitations()

    def close(self) -> None:
        """Stop making copies and close the store."""
        self.films.close()
        self.store.close()


def _worth_asking(rows: list[Row], settings: Settings) -> list[Row]:
    """Leave out pairs whose labels would teach nothing; say how many and why."""
    label, why = settings.label, Counter[str]()
    kept = []
    for row in rows:
        if row["num_frames"] / row["fps"] >= label.segment_s * (1 - 1e-9):
            grid = grid_of(row["num_frames"], row["fps"], label.segment_s)
            if reason := why_not_ask(row, grid, label.alike_below, label.agreement_above):
                why[reason] += 1
                continue
        kept.append(row)
    for reason, count in sorted(why.items()):
        warn(f"{count} pairs are not shown: {reason}")
    return kept


def open_office(project: Project, settings: Settings, *, prepare: bool = True) -> Office:
    """Open store and queue for the pairs of a project; ``prepare`` makes the browser copies of all first.

    Raises:
        ProjectError: if there are no pairs.
        LabelError: if none of them can be shown, or the store cannot be used.
    """
    rows = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    rows = _worth_asking(rows, settings)
    pairs = cards(rows, settings.label.segment_s)
    if len(pairs) < len(rows):
        warn(f"{len(rows) - len(pairs)} pairs are shorter than a segment and left out")
    if prepare:
        for failed in prepare_proxies(project, [row for row in rows if row["pair_id"] in pairs]):
            pairs.pop(failed["pair_id"], None)
    if not pairs:
        raise LabelError(f"{project.pairs_table}: no pair can be shown; see the warnings above")
    del rows
    secret = server_secret(project.labels)
    store = LabelStore.open(project.label_store)
    gold = {
        pair_id: known for pair_id, known in load_gold(project, settings.label.segment_s).items() if pair_id in pairs
    }
    queue = Queue(store.database, settings.serve.overlap, settings.serve.lease_s)
    queue.fill([pair_id for pair_id in work_order(project, pairs, store, settings) if pair_id not in gold])
    roster = Roster(store.database, secret)
    assigner = Assigner(store.database, queue, roster, settings.serve, gold)
    asked = Segments(
        settings.label.segment_s,
        whole_clip=settings.serve.whole_clip,
        offer_ties_below=settings.serve.offer_ties_below,
    )

    def copies(card: Card) -> PairProxies:
        return pair_proxies(project, {name: getattr(card, name) for name in Card.__slots__})

    films = Films(pairs, copies)
    desk = Desk(store, queue, roster, assigner, pairs, films.shape, settings.serve, asked, secret)
    return Office(project, settings, secret, store, queue, roster, desk, films, gold)
