"""Which open item a person gets next: pairings balanced, prompts spread out, in an order of the person's own.

With three people and three pairings, nobody should be the only one who saw two models together: a person's habits
would then look like a difference between models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from densedpo.evaluation.study.plan import Item
from densedpo.keys import stream_seed
from densedpo.labels.queue import Choose


def balanced(items: Iterable[Item]) -> Choose:
    """Return the choice for a queue of ``items``.

    The least of (how often the person had this pairing, how often this prompt, how many places are filled already, a
    draw by person and item): balance first, then breadth, then chance.
    """
    known = {item.item_id: item for item in items}
    sizes = Counter(item.pairing for item in known.values())

    def choose(person: str, offered: Mapping[str, int], had: Collection[str]) -> str:
        seen = [known[item_id] for item_id in had if item_id in known]
        pairings = Counter(item.pairing for item in seen)
        prompts = Counter(item.prompt_id for item in seen)

        def key(item_id: str) -> tuple[float, int, int, int]:
            item = known[item_id]
            draw = stream_seed("study", "order", person, item_id)
            # as a share: the few items in which a model meets itself must not all come first
            return pairings[item.pairing] / sizes[item.pairing], prompts[item.prompt_id], -offered[item_id], draw

        return min(offered, key=key)

    return choose
