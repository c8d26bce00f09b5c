"""What a scorer says of the videos in the pool: one small file a video, so that an interrupted job goes on.

``samples/DIGEST/scores/KEY/PROMPTID-SEED.json`` holds the video's SHA-256, its scores, its properties and, where asked
for, the scores of the same clip frozen. KEY is of the scorer: its name, version and scores, and of this package's
version, since reading a video is part of a score too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from densedpo import __version__
from densedpo.clips.decode import read_video
from densedpo.errors import ProjectError
from densedpo.evaluation import properties
from densedpo.evaluation.controls import freeze
from densedpo.evaluation.sampling import SampledVideo, is_whole
from densedpo.evaluation.scorers import Scorer
from densedpo.keys import content_id
from densedpo.store.files import read_object, sha256_file, write_json

Record = dict[str, Any]


def scorer_key(scorer: Scorer) -> str:
    """Return an id of a scorer and of the property panel: it changes with their versions, their scores, and ours."""
    panel = [properties.VERSION, list(properties.PROPERTIES)]
    return content_id("scores", scorer.name, scorer.version, list(scorer.infos), panel, __version__)


class ScoreBook:
    """Reads and writes the records of one scorer."""

    def __init__(self, scorer: Scorer) -> None:
        """Remember the scorer and its key."""
        self._scorer, self._key = scorer, scorer_key(scorer)
        self.scores = tuple(scorer.infos)

    def path(self, video: SampledVideo) -> Path:
        """Return where the record of a video lies."""
        return video.path.parent / "scores" / self._key / f"{video.path.stem}.json"

    def has(self, video: SampledVideo, *, frozen: bool) -> bool:
        """Say whether there is a record; whether it is of this very video, ``read`` finds out."""
        return self.path(video).is_file() and (not frozen or self._stored(video).get("frozen") is not None)

    def whole(self, path: Path) -> bool:
        """Say whether a video is there and whole: as it was when it was scored, or decodable to its end."""
        known = self._load(path.parent / "scores" / self._key / f"{path.stem}.json").get("video_sha256")
        return (known is not None and path.is_file() and known == sha256_file(path)) or is_whole(path)

    def read(self, video: SampledVideo, *, frozen: bool) -> Record:
        """Return the record of a video; without a good one the video is scored now and the record written.

        Args:
            video: a whole video.
            frozen: whether the clip frozen at its middle frame is scored too.
        """
        digest = sha256_file(video.path)
        stored = self._stored(video)
        if stored.get("video_sha256") == digest and (not frozen or stored.get("frozen") is not None):
            return stored
        seen = read_video(video.path)
        scorer, prompt = self._scorer, video.prompt.text
        record = {
            "video_sha256": digest,
            "scores": _plain(scorer.score(seen.frames, seen.fps, prompt)),
            "properties": properties.properties_of(seen.frames),
            "frozen": _plain(scorer.score(freeze(seen.frames), seen.fps, prompt)) if frozen else None,
        }
        write_json(self.path(video), record)
        return record

    def _stored(self, video: SampledVideo) -> Record:
        return self._load(self.path(video))

    @staticmethod
    def _load(path: Path) -> Record:
        try:
            return read_object(path)
        except ProjectError:  # missing or damaged: it is made again
            return {}


def _plain(scores: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}
