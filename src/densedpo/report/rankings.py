"""Do scores without weights rank the models as ground truth does? Where a project holds both, the report says so.

Two evaluations of the same models and prompts, one of them by the examiner of the miniature world: motion is held
against motion, every other score with a direction against the examiner's main quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from densedpo.evaluation.ranking import RankedPair, Ranker, ranking_agreement
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.report.evaluation import Evaluation
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

_TRUTH = "examiner"


@dataclass(frozen=True)
class RankedScore:
    """How one score ranks pairs of models beside the truth: as it does, upside down, or only one of them at all."""

    label: str
    against: str
    same: int
    opposite: int
    missed: int  # told apart by the truth alone
    invented: int  # told apart by the score alone
    upside_down: list[str]  # which pairs, in words


@dataclass(frozen=True)
class Compared:
    """How the scores of evaluation ``found`` rank the models of evaluation ``truth``."""

    truth: str
    found: str
    pairs: int
    scores: list[RankedScore]


def compare_rankings(project: Project, evaluations: list[Evaluation]) -> list[Compared]:
    """Compare every evaluation by ground truth with every other one of the same models and prompts."""
    known = [one for one in evaluations if one.part("scorer") == _TRUTH]
    others = [one for one in evaluations if one.part("scorer") not in (_TRUTH, None)]
    return [_compare(project, truth, found) for truth, found in product(known, others) if _alike(truth, found)]


def _alike(one: Evaluation, other: Evaluation) -> bool:
    digests = [(found.part("prompt_set") or {}).get("digest") for found in (one, other)]
    return one.models == other.models and len(one.models) > 1 and digests[0] is not None and digests[0] == digests[1]


def _compare(project: Project, truth: Evaluation, found: Evaluation) -> Compared:
    known, other = (read_table(project.evaluation(one.name) / "scores.parquet") for one in (truth, found))
    scores = []
    for score, info in found.main_info.items():
        against = truth.motion if score == found.motion else next(iter(truth.qualities), None)
        if against is None or (info["better"] == "neither" and score != found.motion):
            continue
        ranked = ranking_agreement(_ranker(truth, against, known), _ranker(found, score, other)).pairs
        scores.append(_counted(info["label"], truth.info[against]["label"], ranked))
    return Compared(truth.name, found.name, len(truth.models) * (len(truth.models) - 1) // 2, scores)


def _counted(label: str, against: str, pairs: tuple[RankedPair, ...]) -> RankedScore:
    return RankedScore(
        label=label,
        against=against,
        same=sum(pair.truth == pair.found for pair in pairs),
        opposite=sum(pair.truth * pair.found < 0 for pair in pairs),
        missed=sum(pair.truth != 0 and pair.found == 0 for pair in pairs),
        invented=sum(pair.truth == 0 and pair.found != 0 for pair in pairs),
        upside_down=[f"{pair.model} and {pair.other}" for pair in pairs if pair.truth * pair.found < 0],
    )


def _ranker(evaluation: Evaluation, score: str, rows: list[Row]) -> Ranker:
    return Ranker(score, ScoreInfo(**evaluation.summary["score_info"][score]), rows)
