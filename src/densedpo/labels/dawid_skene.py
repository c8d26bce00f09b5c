"""Dawid and Skene's model: the true answers and every person's habits at once, by expectation maximisation.

Each person has a table of habits [said, true]; the truth of each question is a distribution over the categories. Both
are estimated in turn until neither changes. Pure numpy, deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Votes = Mapping[tuple[str, int], Mapping[str, int]]
_SMOOTHING = 0.5
_STEPS = 100
_SMALL = 1e-6


def posteriors(votes: Votes, categories: int) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return the distribution over categories of every question, [K].

    Args:
        votes: the category each author gave to each question.
        categories: how many categories there are.
    """
    questions = sorted(votes)
    authors = {author: index for index, author in enumerate(sorted({name for said in votes.values() for name in said}))}
    triples = [
        (number, authors[name], said)
        for number, question in enumerate(questions)
        for name, said in votes[question].items()
    ]
    if not triples:
        return {}
    item, author, said = np.array(triples).T
    given = np.zeros((len(questions), categories))
    np.add.at(given, (item, said), 1.0)
    truth = given / given.sum(axis=1, keepdims=True)
    for _ in range(_STEPS):
        prior = truth.mean(axis=0) + _SMALL
        # smoothing towards being right keeps a person with few answers near the others, and the categories named
        said_true = np.full((len(authors), categories, categories), _SMOOTHING / categories)
        said_true += np.eye(categories) * _SMOOTHING
        np.add.at(said_true, (author, said), truth[item])
        habits = said_true / said_true.sum(axis=1, keepdims=True)
        logs = np.tile(np.log(prior / prior.sum()), (len(questions), 1))
        np.add.at(logs, item, np.log(habits)[author, said])
        found = np.exp(logs - logs.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
        moved = float(np.abs(found - truth).max())
        truth = found
        if moved < _SMALL:
            break
    return dict(zip(questions, truth, strict=True))
