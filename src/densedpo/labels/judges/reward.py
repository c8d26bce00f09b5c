"""The reward judge: a video reward model in another process scores each side by itself; the higher score wins.

segment -> one temporary MP4 a side (MASTER profile: 4:4:4, within 2 levels) -> adapter -> scores -> margin a - b

As sides are scored apart, the order in which they are asked about cannot matter, and a side is scored once: scores are
kept by what was shown, the model and the prompt. Table 3a of the paper: VideoReward and VisionReward are right on 72 %
of one-second segments that people do not call ties. VisionReward prefers a frozen clip (table 8): see the self-test.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.encode import write_video
from densedpo.errors import ConfigError
from densedpo.keys import content_id
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.outside.cache import ScoreCache, score_key
from densedpo.outside.pipe import Adapter
from densedpo.outside.wire import Hello, Item, Scored

_VERSION = 1
_OVERALL = "overall"


class RewardJudge:
    """Judge by the margin sum_i w_i (s_i(a) - s_i(b)) with sum |w_i| = 1; a tie where its size is at most ``tie_band``.

    ``raw`` is a JSON object with ``margin`` and the scores of both sides. There is no confidence, as scores have no
    scale of their own: what a margin is worth is fitted against people (labels/accuracy/calibration.py reads it).
    Swapping the sides swaps the answer exactly.
    """

    parallel = 2  # one segment is written to disk while another is scored

    def __init__(
        self,
        adapter: Adapter,
        cache: ScoreCache,
        *,
        chosen: Sequence[str] = (),
        tie_band: float = 0.0,
        show_caption: bool = False,
    ) -> None:
        """Keep adapter and cache; both stay the caller's.

        ``chosen`` names the scores that count, each with an optional weight: ``VQ``, ``MQ=2``, ``loss=-1``. By default
        that is ``overall``, or all of them alike; where no caption is shown, only those that need none.
        """
        self._adapter, self._cache = adapter, cache
        self._chosen, self._tie_band, self._show_caption = tuple(chosen), tie_band, show_caption

    @property
    def name(self) -> str:
        """Return the name that answers are stored under; the first question for it starts the adapter."""
        return f"reward:{self._hello.name}"

    @property
    def settings_digest(self) -> str:
        """Return the id of the adapter as it describes itself, of weights, tie band and whether prompts are told."""
        return content_id(
            "reward", _VERSION, self._hello.digest, dict(self._weights), self._tie_band, self._show_caption
        )

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement; fewer than two frames cannot be judged, a side that cannot be scored is a failure.

        Raises:
            AdapterError: if the adapter cannot be started or breaks down on everything.
            ConfigError: if a chosen score is not one of the adapter's, or needs a caption that is not shown.
        """
        if min(len(pair.frames_a), len(pair.frames_b)) < 2:
            return Judgement("cannot_judge", reason="fewer than two frames: nothing to score over time")
        prompt = (pair.caption or "") if self._show_caption else ""
        sides = (pair.frames_a, pair.frames_b)
        found, known = self._scores(sides, pair.fps, prompt)
        calls = len(sides) - known
        for side, said in zip("ab", found, strict=True):
            if said.error:
                return Judgement(None, "failed", reason=f"side {side}: {said.error}", calls=calls, cached=known)
        totals = [sum(weight * said.scores[name] for name, weight in self._weights.items()) for said in found]
        margin = totals[0] - totals[1]
        raw = json.dumps({"margin": margin, "a": found[0].scores, "b": found[1].scores}, sort_keys=True)
        reason = f"score a {totals[0]:.4g}, b {totals[1]:.4g}, tie within {self._tie_band:g}"
        answer = "tie" if abs(margin) <= self._tie_band else "a" if margin > 0 else "b"
        return Judgement(answer, reason=reason, raw=raw, calls=calls, cached=known)  # type: ignore[arg-type]

    @cached_property
    def _hello(self) -> Hello:
        return self._adapter.hello

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        return choose_weights(self._hello, self._chosen, self._show_caption)

    def _scores(self, sides: Sequence[NDArray[np.uint8]], fps: float, prompt: str) -> tuple[list[Scored], int]:
        """Return the scores of both sides, and how many were known."""
        keys = [score_key(self._hello.digest, _digest(frames, fps), prompt) for frames in sides]
        known = {key: Scored(scores) for key in keys if (scores := self._cache.get(key)) is not None}
        already = sum(key in known for key in keys)
        missing = {key: frames for key, frames in zip(keys, sides, strict=True) if key not in known}
        if missing:
            with tempfile.TemporaryDirectory(prefix="densedpo-reward-") as folder:
                items = [Item(Path(folder) / f"{number}.mp4", prompt) for number in range(len(missing))]
                for item, frames in zip(items, missing.values(), strict=True):
                    write_video(item.video, frames, fps)
                for place, said in self._adapter.score(items):
                    key = list(missing)[place]
                    known[key] = said
                    if not said.error:
                        self._cache.put(key, said.scores)
        return [known[key] for key in keys], already


def choose_weights(hello: Hello, chosen: Sequence[str], show_caption: bool) -> dict[str, float]:
    """Return the weight of every score that counts; their sizes sum to 1.

    Raises:
        ConfigError: if a name is not one of the adapter's, needs a caption that is not shown, or a weight is no number.
    """
    blind = set() if show_caption else set(hello.prompted)
    if not chosen:
        usable = [name for name in hello.scores if name not in blind]
        best = [name for name in usable if name.lower() == _OVERALL]
        chosen = best or [name for name in usable if name.lower() != _OVERALL]
    weights: dict[str, float] = {}
    for text in chosen:
        name, _, number = text.partition("=")
        if name not in hello.scores:
            raise ConfigError(f"judge.dimensions: {hello.name} has no score {name!r}; it has {', '.join(hello.scores)}")
        if name in blind:
            raise ConfigError(f"judge.dimensions: {name} needs the caption; add --show-caption or leave it out")
        try:
            weights[name] = float(number) if number else 1.0
        except ValueError:
            raise ConfigError(f"judge.dimensions: the weight of {text!r} is not a number") from None
    total = sum(map(abs, weights.values()))
    if not (0 < total < float("inf")):
        raise ConfigError(
            f"judge.dimensions: {hello.name} has no score left that counts; name some, or show the caption"
        )
    return {name: weight / total for name, weight in weights.items()}


def _digest(frames: NDArray[np.uint8], fps: float) -> str:
    shown = np.ascontiguousarray(frames)
    return content_id("frames", list(shown.shape), fps, hashlib.sha256(shown.data).hexdigest())
