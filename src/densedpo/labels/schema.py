"""The tables of the label store: what was said, who is asked, and who has which pair at the moment.

``events`` and ``receipts`` are append-only: they are the labels. ``people``, ``queue`` and ``claims`` say who works on
what and may be changed; losing them would lose nobody's answer. Nothing here is peculiar to SQLite or PostgreSQL.
"""

from __future__ import annotations

import sqlalchemy as sql

SCHEMA_VERSION = 2
# What is asked: who answers about which part of which pair, for which task. Segments of another length are other
# questions, and so is the same pair shown once more to see whether the same person says the same.
QUESTION = ("pair_id", "segment_s", "segment", "source", "author", "task")

schema = sql.MetaData()
about = sql.Table("about", schema, sql.Column("schema_version", sql.Integer, primary_key=True, autoincrement=False))
events = sql.Table(
    "events",
    schema,
    sql.Column("event_id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("idempotency_key", sql.String(32), nullable=False, unique=True),
    sql.Column("revision", sql.Integer, nullable=False),
    sql.Column("created_s", sql.Double, nullable=False),
    sql.Column("pair_id", sql.Text, nullable=False),
    sql.Column("segment", sql.Integer, nullable=False),
    sql.Column("answer", sql.String(16)),
    sql.Column("outcome", sql.String(16), nullable=False),
    sql.Column("source", sql.String(16), nullable=False),
    sql.Column("author", sql.Text, nullable=False),
    sql.Column("segment_s", sql.Double, nullable=False),
    sql.Column("start_s", sql.Double, nullable=False),
    sql.Column("end_s", sql.Double, nullable=False),
    sql.Column("confidence", sql.Double),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("raw", sql.Text, nullable=False),
    sql.Column("settings_digest", sql.String(64), nullable=False),
    sql.Column("trusted", sql.Boolean, nullable=False),
    sql.Column("task", sql.String(16), nullable=False, server_default="work"),
    sql.Column("tags", sql.Text, nullable=False, server_default=""),
    sql.Column("note", sql.Text, nullable=False, server_default=""),
    sql.Column("dwell_s", sql.Double),
    sql.Column("shown_first", sql.String(1)),
    sql.Column("offered", sql.Boolean, nullable=False, server_default=sql.false()),
    # the page's own count of its answers: one that arrives late must not overrule a newer one
    sql.Column("seq", sql.BigInteger, nullable=False, server_default="0"),
    sql.UniqueConstraint(*QUESTION, "revision", name="one_revision"),
    sqlite_autoincrement=True,
)
receipts = sql.Table(
    "receipts",
    schema,
    sql.Column("author", sql.Text, primary_key=True),
    sql.Column("post_key", sql.String(64), primary_key=True),
    sql.Column("stored", sql.Integer, nullable=False),
    sql.Column("created_s", sql.Double, nullable=False),
)
people = sql.Table(
    "people",
    schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("role", sql.String(16), nullable=False),
    sql.Column("token_sha256", sql.String(64), unique=True),
    sql.Column("created_s", sql.Double, nullable=False),
    sql.Column("instructed", sql.Boolean, nullable=False),
    # None: not asked yet
    sql.Column("qualified", sql.Boolean),
)
queue = sql.Table(
    "queue",
    schema,
    sql.Column("pair_id", sql.Text, primary_key=True),
    # place in the order of work, from 0
    sql.Column("rank", sql.Integer, nullable=False),
    # answers still wanted and not in anybody's hands
    sql.Column("free", sql.Integer, nullable=False),
    # whether any is: an index needs it as a column
    sql.Column("open", sql.Boolean, nullable=False),
    sql.Column("done", sql.Integer, nullable=False),
    # 0: none seen, 1: waits for a reviewer, 2: reviewed
    sql.Column("disagreement", sql.Integer, nullable=False),
    sql.Index("queue_open", "open", "rank"),
    sql.Index("queue_disagreements", "disagreement", "rank"),
)
claims = sql.Table(
    "claims",
    schema,
    sql.Column("task_id", sql.String(32), primary_key=True),
    sql.Column("pair_id", sql.Text, nullable=False),
    sql.Column("annotator", sql.Text, nullable=False),
    sql.Column("task", sql.String(16), nullable=False),
    # the place among those wanted for this pair; None: holds none (expired, surplus, or a measuring task)
    sql.Column("slot", sql.Integer),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("lease_until_s", sql.Double, nullable=False),
    sql.Column("created_s", sql.Double, nullable=False),
    sql.Column("submitted_s", sql.Double),
    sql.UniqueConstraint("pair_id", "slot", name="one_holder"),
    sql.UniqueConstraint("annotator", "pair_id", "task", name="once_each"),
    sql.Index("claims_state", "state", "lease_until_s"),
    sql.Index("claims_person", "annotator", "state"),
)
