"""A small evaluation to hold a study on: drawn clips of two or three models, and the page served from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import uvicorn
from numpy.typing import NDArray

from densedpo.clips.encode import write_video
from densedpo.config import Settings, parse_settings
from densedpo.evaluation.study.office import open_study, team_of
from densedpo.evaluation.study.plan import Plan
from densedpo.keys import stream
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import Office
from densedpo.labels.people.serve import listen, server_config
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table

NAME = "held-out"
MODELS = ("base_7", "dense_b500")  # names that no reply holds by chance
COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "prompt_id", "prompt", "video")),
        ("seed", pa.int64()),
        ("sharpness", pa.float64()),
    ]
)


def clip(model: str, prompt: int, seed: int, frames: int = 17, size: int = 32) -> NDArray[np.uint8]:
    """Return frames that no other (model, prompt, seed) has: a square on noise of its own."""
    rng = stream("test", "study", model, prompt, seed)
    picture = np.kron(rng.integers(40, 200, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
    shown = np.repeat(picture[None], frames, axis=0).astype(np.uint8)
    for index in range(frames):
        place = int(index / frames * (size - 8))
        shown[index, 12:20, place : place + 8] = (250, 60, 30)
    return shown


def make_evaluation(
    root: Path,
    models: Sequence[str] = MODELS,
    prompts: int = 3,
    seeds: int = 2,
    text: str = "a red square, take",
    draw: Callable[[str, int, int], NDArray[np.uint8]] = clip,
) -> Project:
    """Write ``evals/NAME`` as ``densedpo evaluate`` leaves it, as far as a study reads it."""
    project, rows = Project(root), list[Row]()
    for model in models:
        for prompt in range(prompts):
            for seed in range(seeds):
                video = f"videos/{model}/prompt{prompt}-{seed}.mp4"
                write_video(project.evaluation(NAME) / video, draw(model, prompt, seed), 8.0)
                row = {"model": model, "prompt_id": f"prompt{prompt}", "prompt": f"{text} {prompt}"}
                rows.append({**row, "seed": seed, "video": video, "sharpness": 1.0})
    write_table(project.evaluation(NAME) / "scores.parquet", rows, COLUMNS)
    return project


def study_settings(**chosen: object) -> Settings:
    """Return settings of a study that measures nobody unless asked to."""
    return parse_settings({"study": {"control_every": 0, "repeat_every": 0, "same_model_every": 0, **chosen}})


def open_room(
    project: Project, models: Sequence[str] = MODELS, questions: Path | None = None, **chosen: object
) -> tuple[Office, Plan]:
    """Open the study of the evaluation."""
    return open_study(project, study_settings(**chosen), NAME, models, questions)


@contextmanager
def served(office: Office, plan: Plan, port: int = 0) -> Iterator[str]:
    """Serve an open study on this machine; gives its address."""
    listening = listen("127.0.0.1", port)
    port = listening.getsockname()[1]
    server = uvicorn.Server(server_config(office, Site("127.0.0.1"), lambda running: team_of(running, plan)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()
