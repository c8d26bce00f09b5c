"""Do two scores rank models alike? For holding a score that needs no weights against ground truth or people.

Two score tables of the same models -> for every pair of models who is ahead in each -> where they differ, in sentences.
A score ranks a pair only where the interval of the paired difference leaves 0 out; all else is "not told apart".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from densedpo.evaluation.paired import Bootstrap, table_of
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.store.tables import Row


@dataclass(frozen=True)
class Ranker:
    """One score of some videos: rows with ``model``, ``prompt_id``, ``seed`` and the score's column."""

    score: str
    info: ScoreInfo
    rows: Sequence[Row]

    def ahead(self, model: str, other: str) -> int:
        """Return 1 where ``model`` is ahead of ``other``, -1 where it is behind, 0 where they are not told apart.

        Ahead is better; of a score with no better side (motion) it is higher. Samples of the same prompt and seed are
        paired, prompts are drawn again (95 %).
        """
        pair = (model, other)
        by_model = [{_sample(row) for row in self.rows if row["model"] == name} for name in pair]
        both = set.intersection(*by_model)
        if not both:
            return 0
        table = table_of([row for row in self.rows if _sample(row) in both], pair, [self.score])
        gap = table.of(model, self.score) - table.of(other, self.score)
        found = Bootstrap(len(table.prompts)).interval(gap, table.seeds)
        sign = 0 if found is None else (found.low > 0) - (found.high < 0)
        return -sign if self.info.better == "lower" else sign


@dataclass(frozen=True)
class RankedPair:
    """Two models and which of them is ahead, by either score: 1 the first, -1 the second, 0 not told apart."""

    model: str
    other: str
    truth: int
    found: int


@dataclass(frozen=True)
class RankingAgreement:
    """How far one score ranks models as another does.

    Attributes:
        pairs: every pair of models.
        agrees: whether both say the same of every pair.
        contradicts: whether they say the opposite of any.
        sentences: where they differ; one sentence that they do not, if so.
    """

    pairs: tuple[RankedPair, ...]
    agrees: bool
    contradicts: bool
    sentences: tuple[str, ...]


def ranking_agreement(truth: Ranker, found: Ranker) -> RankingAgreement:
    """Compare how ``found`` ranks models with how ``truth`` does, over the models that both have, in order of row."""
    known = {row["model"] for row in found.rows}
    models = [model for model in dict.fromkeys(row["model"] for row in truth.rows) if model in known]
    pairs = tuple(RankedPair(a, b, truth.ahead(a, b), found.ahead(a, b)) for a, b in combinations(models, 2))
    differing = [pair for pair in pairs if pair.truth != pair.found]
    if differing:
        sentences = tuple(f"{_says(pair, truth, pair.truth)}; {_says(pair, found, pair.found)}." for pair in differing)
    else:
        apart = sum(pair.truth != 0 for pair in pairs)
        sentences = (
            f"{found.info.label} ranks {', '.join(models)} as {truth.info.label} does "
            f"({apart} of {len(pairs)} pairs told apart, by both).",
        )
    contradicts = any(pair.truth * pair.found < 0 for pair in pairs)
    return RankingAgreement(pairs, not differing, contradicts, sentences)


def _says(pair: RankedPair, ranker: Ranker, ahead: int) -> str:
    if ahead == 0:
        return f"{ranker.info.label} does not tell {pair.model} and {pair.other} apart"
    first, second = (pair.model, pair.other) if ahead > 0 else (pair.other, pair.model)
    return f"{ranker.info.label} ranks {first} above {second}"


def _sample(row: Row) -> tuple[str, int]:
    return row["prompt_id"], row["seed"]
