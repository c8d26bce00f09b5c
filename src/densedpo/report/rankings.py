"""Do scores without weights rank the models as ground truth does? Where a project holds both, the report says so.

Two evaluations of the same models and prompts, one of them by the examiner of the miniature world: motion is held
against motion, every other score with a direction against the examiner's main quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from densedpo.evaluation.ranking import Ranker, ranking_agreement
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.report.evaluation import Evaluation
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

_TRUTH = "examiner"


@dataclass(frozen=True)
class Compared:
    """How the scores of evaluation ``found`` rank the models of evaluation ``truth``, a sentence a finding."""

    truth: str
    found: str
    agreeing: int
    compared: int
    sentences: list[str]


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
    said: list[str] = []
    agreeing = compared = 0
    for score in found.info:
        against = truth.motion if score == found.motion else _quality(truth)
        direction = found.info[score]["better"]
        if against is None or (direction == "neither" and score != found.motion):
            continue
        agreement = ranking_agreement(_ranker(truth, against, known), _ranker(found, score, other))
        compared += 1
        agreeing += agreement.agrees
        said += agreement.sentences
    return Compared(truth.name, found.name, agreeing, compared, said)


def _quality(evaluation: Evaluation) -> str | None:
    return evaluation.qualities[0] if evaluation.qualities else None


def _ranker(evaluation: Evaluation, score: str, rows: list[Row]) -> Ranker:
    return Ranker(score, ScoreInfo(**evaluation.summary["score_info"][score]), rows)
