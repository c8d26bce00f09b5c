"""Send the questions about a few drawn segments through batch files, to be killed on the way: URL and FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.labels.judges.doubles import noise_pair

from densedpo.config import JudgeSettings
from densedpo.labels.judges.batch import Batches
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.vlm import VlmJudge

PAIRS = 4


def main(url: str, folder: Path) -> None:
    settings = JudgeSettings(base_url=url, model="m", timeout_s=20)
    with Replies(folder / "replies.db") as replies, Endpoint(settings, replies) as endpoint:
        batches = Batches(endpoint, settings, replies, folder / "batches", first_wait_s=0.02)
        judge = VlmJudge(batches, settings)
        pairs = [noise_pair(seed=seed) for seed in range(PAIRS)]
        batches.fill(question for pair in pairs for question in judge.questions(pair))
        batches.close()
        print(",".join(judge.judge(pair).outcome for pair in pairs))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
