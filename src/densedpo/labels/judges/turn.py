"""One process a judge: two that were started on the same segments would ask, and pay for, everything twice.

Other judges, and other parts of the pairs (``--shard``), may be at work at the same time.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from densedpo.errors import LabelError
from densedpo.keys import content_id
from densedpo.labels.judges.base import Judge
from densedpo.labels.judges.work import Ask
from densedpo.observe import warn
from densedpo.store.lock import take_lock
from densedpo.store.project import Project
from densedpo.store.shard import Shard

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # of file systems shared by machines


@contextmanager
def judges_turn(project: Project, judge: Judge, segment_s: float, ask: Ask, shard: Shard) -> Iterator[None]:
    """Keep other processes from judging the same part of the pairs in the judge's name.

    The whole is one lock, which parts share; each part has one of its own besides. Parts of different numbers of parts
    (1/2 and 1/3) overlap without being kept apart. Settings make no difference: answers to the same questions in the
    same name would replace each other.

    Raises:
        LabelError: if another process is at it.
    """
    name = content_id("judge's turn", judge.name, segment_s, ask)
    locks = {f"{name}.lock": shard.count == 1}
    if shard.count > 1:
        locks[f"{name}-{shard.index}-of-{shard.count}.lock"] = True
    with ExitStack() as held:
        try:
            for file, alone in locks.items():
                held.enter_context(take_lock(project.cache / "judges" / file, alone=alone))
        except BlockingIOError:
            part = f"part {shard} of " if shard.count > 1 else ""
            raise LabelError(
                f"{project.root}: another process judges {part}these pairs as {judge.name}; wait for it, or share the "
                "work: start each process with a part of its own, --shard 1/2 and --shard 2/2 for example"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warn(f"{project.cache}: no locks here ({error.strerror}); start no second process for the same judge")
        yield
