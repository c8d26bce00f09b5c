"""The videos of one evaluation: each model's are made in the pool, scored, and put into tables and ``evals/NAME``.

Models come one after the other and videos one at a time, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow as pa

from densedpo.config import Settings
from densedpo.evaluation.loading import load_variant
from densedpo.evaluation.paired import BASE
from densedpo.evaluation.pool import Maker, publish
from densedpo.evaluation.properties import PREFIX, PROPERTIES
from densedpo.evaluation.sampling import SampledVideo, SamplingRecipe, sample_missing
from densedpo.evaluation.scoring import ScoreBook
from densedpo.evaluation.variants import Variant
from densedpo.observe import track
from densedpo.store.files import remove_leftovers
from densedpo.store.project import Project
from densedpo.store.shard import Shard
from densedpo.store.tables import Row, write_table

_FROZEN_SEED = 0  # one frozen clip a prompt is enough to see what freezing buys


@dataclass(frozen=True)
class ModelVideos:
    """One model of the evaluation, what makes its videos, and the videos in batches."""

    variant: Variant
    maker: Maker
    batches: list[list[SampledVideo]]

    @property
    def videos(self) -> list[SampledVideo]:
        """All videos, in order."""
        return [video for batch in self.batches for video in batch]

    def frozen(self, video: SampledVideo) -> bool:
        """Say whether this video is scored frozen too."""
        return self.variant.name == BASE and video.seed == _FROZEN_SEED


def make_and_score(
    project: Project,
    models: Sequence[ModelVideos],
    settings: Settings,
    recipe: SamplingRecipe,
    book: ScoreBook,
    shard: Shard | None,
) -> None:
    """Sample and score every video, or a shard's: batches are dealt out in turn over all models."""
    number = count()
    for model in models:
        folder = model.maker.open(project)
        if shard is None:
            # with shards, another machine's unfinished files look like leftovers
            for place in (folder, *folder.glob("scores/*")):
                remove_leftovers(place)
        mine = [batch for batch in model.batches if (shard or Shard()).takes(next(number))]
        name = model.variant.name
        load = partial(load_variant, model.variant, settings)
        sample_missing(load, mine, recipe, name, book.whole)
        for video in track([video for batch in mine for video in batch], f"scoring {name}"):
            book.read(video, frozen=model.frozen(video))


def count_missing(models: Sequence[ModelVideos], book: ScoreBook) -> int:
    """Return how many videos have no scores yet."""
    return sum(not book.has(video, frozen=model.frozen(video)) for model in models for video in model.videos)


def publish_all(models: Sequence[ModelVideos], book: ScoreBook, folder: Path) -> tuple[list[Row], list[Row]]:
    """Put videos and tables into the evaluation's folder; return the rows of all videos and of the frozen clips."""
    rows: list[Row] = []
    frozen: list[Row] = []
    for model in models:
        name = model.variant.name
        publish(model.videos, folder / "videos" / name)
        for video in model.videos:
            record = book.read(video, frozen=model.frozen(video))
            about = {"prompt_id": video.prompt.prompt_id, "prompt": video.prompt.text, "seed": video.seed}
            properties = {PREFIX + key: value for key, value in record["properties"].items()}
            place = {"model": name, "video": f"videos/{name}/{video.path.name}"}
            rows.append({**place, **about, **record["scores"], **properties})
            if model.frozen(video):
                frozen.append({**about, **record["frozen"]})
    about_columns = [("prompt_id", pa.string()), ("prompt", pa.string()), ("seed", pa.int64())]
    numbers = [(score, pa.float64()) for score in book.scores]
    properties_columns = [(PREFIX + key, pa.float64()) for key in PROPERTIES]
    columns = [("model", pa.string()), *about_columns, ("video", pa.string()), *numbers, *properties_columns]
    write_table(folder / "scores.parquet", rows, pa.schema(columns))
    write_table(folder / "frozen.parquet", frozen, pa.schema([*about_columns, *numbers]))
    return rows, frozen
