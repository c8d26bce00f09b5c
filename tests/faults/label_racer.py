"""One annotator in a race: claims pairs until none is left and prints each. Started by test_label_race.py.

Usage: label_racer.py LOCATION NAME RULE LEAVES LEASE_S, where RULE is ``queue`` or ``read-then-update`` (the wrong
twin, which looks for a free pair in one transaction and takes it in another) and LEAVES is the share of pairs that are
dropped without a word.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from densedpo.keys import stream
from densedpo.labels.database import Database
from densedpo.labels.people.progress import team_progress
from densedpo.labels.queue import Claim, Queue


class ReadThenUpdate(Queue):
    """The mistake: what was read may have changed before it is written."""

    def take_work(self, annotator: str) -> Claim | None:
        with self._database.reading() as connection:
            pair_id = self._next_free(connection, annotator)
        if pair_id is None:
            return None
        time.sleep(0.001)  # on however quick a machine, others look before it is written
        with self._database.writing() as connection:
            return self._claim(connection, annotator, pair_id, "work", None)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(location: str, name: str, rule: str, leaves: float, lease_s: float) -> None:
    database = Database.open(location if "://" in location else Path(location))
    queue = (Queue if rule == "queue" else ReadThenUpdate)(database, overlap=1, lease_s=lease_s)
    rng = stream("test", "race", name)
    tell("ready")
    sys.stdin.readline()
    while True:
        claim = queue.take_work(name)
        if claim is None:
            done, wanted = team_progress(database, 1)
            if not leaves or done == wanted:
                break
            time.sleep(0.05)  # what was dropped comes back once its lease is over
            continue
        left = rng.uniform() < leaves
        state = "left" if left else queue.submit(claim.task_id, name, lambda *_: False)
        tell(f"{state} {claim.pair_id}")
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
