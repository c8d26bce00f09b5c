"""The model card: everything to load and judge what was trained, the same bytes each time, nothing of this machine."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from densedpo.config import Settings, parse_settings
from densedpo.evaluation import paired
from densedpo.evaluation.scorers import FrameScorer
from densedpo.labels.snapshot import LabelSnapshot, PairLabels
from densedpo.models.load import hub_revision, tuned_digest
from densedpo.models.lora import FILE_NAME
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.training.card import effects_table, model_card, update_card
from densedpo.training.data import PairItem

FACTS = {
    "run": "tuned",
    "method": "dense",
    "pair_mode": "guided",
    "pairs": 2,
    "base": "some/model",
    "base_fingerprint": "0123456789abcdef",
    "stopped": None,
    "odd": "a|b\nc",
}
ROWS = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5, "rewards/accuracies": 0.75}, {"step": 3, "grad_norm": 1.0}]
SCORES = list(FrameScorer.infos)


def settings(**train: Any) -> Settings:
    return parse_settings({"model": "some/model", "train": train})


def pair(pair_id: str, labels: tuple[float | None, ...], clip: float | None) -> PairLabels:
    return PairLabels(pair_id, (None,) * len(labels), labels, None, clip, 1)


def item(pair_id: str, source: str = "s") -> PairItem:
    return PairItem(
        pair_id=pair_id,
        clip_id="c",
        source_sha256=source,
        caption="a private caption",
        latents_path=Path("/private/place"),
        sha256_latents=f"sha-{pair_id}",
        num_segments=2,
        frame_labels=(1.0, 0.0),
        frame_ties=(False, False),
        clip_label=1.0,
        clip_tie=False,
        eta=0.7,
        latent_shape=(1, 2, 1, 1),
    )


LABELS = LabelSnapshot(
    1.0,
    {"p": pair("p", (1.0, -0.5, 0.0), 1.0), "q": pair("q", (None, 0.0, 1.0), None)},
    "feedfacefeedface",
    {"source": "person", "authors": ["Ada Private"]},
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with a run's LoRA file and a card."""
    found = Project(tmp_path / "project")
    (found.run("tuned") / "lora").mkdir(parents=True)
    (found.run("tuned") / "lora" / FILE_NAME).write_bytes(b"weights")
    (found.run("tuned") / "README.md").write_text(model_card(FACTS, settings(), ROWS))
    return found


def evaluate(project: Project, name: str, gain: float, runs: tuple[str, ...] = ("tuned",)) -> None:
    """Write what an evaluation with these gains would."""
    rows = [
        {"model": model, "prompt_id": f"p{p}", "seed": seed}
        | dict.fromkeys(SCORES, 10.0 + p + (gain + 0.01 * p if model != "base" else 0))
        for model in ("base", *runs)
        for p in range(5)
        for seed in range(2)
    ]
    table = paired.table_of(rows, ["base", *runs], SCORES)
    bootstrap = paired.Bootstrap(len(table.prompts))
    found = {"scores": paired.scores_of(table, bootstrap), "differences": paired.differences_of(table, bootstrap)}
    summary = {
        "name": name,
        "prompts": [{"prompt_id": f"p{p}", "held_out": p < 3} for p in range(5)],
        "seeds": [0, 1],
        "scorer": "frames",
        "score_info": {score: asdict(info) for score, info in FrameScorer.infos.items()},
        **{part: {model: paired.plain(means) for model, means in by.items()} for part, by in found.items()},
        "settings": {"steps": 4, "cfg": 2.0, "shift": 3.0},
        "hashes": {"loras": {run: tuned_digest(project.run(run)) for run in runs}},
    }
    write_json(project.evaluation(name) / "summary.json", summary)


def table_of(card: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading, by their first cell."""
    lines = card.partition(f"\n{heading}\n")[2].strip().split("\n\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells[2:]}


def test_what_is_in_it() -> None:
    card = model_card(FACTS, settings(lora_rank=7), ROWS, labels=LABELS, learning=[item("p"), item("q")])
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "diffusers", "tags": ["text-to-video", "lora", "dpo", "densedpo"]}
    assert "| base fingerprint | `0123456789abcdef` |" in card
    assert "| odd | `a\\|b c` |" in card  # no cell can break the table
    assert "stopped" not in card
    assert table_of(card, "## Training, last step") == {"loss": ["0.5"], "implicit accuracy": ["0.75"]}
    data = table_of(card, "## Data")
    assert data["label snapshot"] == ["`feedfacefeedface`"]
    assert data["answers from"] == ["person"]
    assert data["segments"] == ["3 with a preference, 2 ties, 1 not labelled"]
    assert data["whole videos"] == ["1 with a preference, 0 ties, 1 not labelled"]
    assert "Not stated." in card.partition("## Licence")[2]
    assert yaml.safe_load(card.partition("```yaml")[2].partition("```")[0])["train"]["lora_rank"] == 7
    assert "Not measured yet: `densedpo evaluate --run tuned`" in card


def test_nothing_private_is_in_it() -> None:
    card = model_card(FACTS, settings(), ROWS, labels=LABELS, learning=[item("p")], held_out=[item("q")])
    assert not any(word in card for word in ("Ada", "private", "Private"))


def test_the_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    card = model_card(
        FACTS, settings(), ROWS, labels=LABELS, learning=[item("q", "t"), item("p")], held_out=[item("r")]
    )
    data = table_of(card, "## Data")
    file = tmp_path / "lines"
    file.write_text("p sha-p\nq sha-q\n")
    digest = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    assert data["pairs learned from, SHA-256 of `PAIR_ID LATENTS_SHA256` lines"] == [f"`{digest}` (2)"]
    assert data["pairs held out, SHA-256 of `PAIR_ID LATENTS_SHA256` lines"][0].endswith("(1)")
    sources = hashlib.sha256(b"s\nt\n").hexdigest()
    assert data["source videos, SHA-256 of their SHA-256 lines"] == [f"`{sources}` (2)"]


def test_equal_runs_give_equal_cards() -> None:
    one = model_card(FACTS, settings(), ROWS, labels=LABELS, learning=[item("p"), item("q")])
    assert one == model_card(FACTS, settings(), ROWS, labels=LABELS, learning=[item("q"), item("p")])
    assert one != model_card(FACTS, settings(), ROWS, labels=LABELS, learning=[item("p")])


@pytest.mark.parametrize("base", ["some/model", "miniature", 'a "quoted" \\ folder'])
@pytest.mark.parametrize("train", [{}, {"lora_format": "comfyui"}, {"tuning": "full"}])
def test_how_to_load_it_is_python(base: str, train: dict[str, Any]) -> None:
    chosen = Settings.model_validate({"model": base, "revision": "abc", "train": train})
    card = model_card(FACTS | {"base": base}, chosen, ROWS)
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert 'revision="abc"' in code
    assert ("resolve_folder" in code) == (base == "miniature")
    assert ('load_lora_weights("lora")' in code) != ('AutoModel.from_pretrained("transformer")' in code)
    assert ("tuning" in train) == ("AutoModel" in code) == ("full-fine-tuning" in card)
    assert ("pytorch_lora_weights_comfyui.safetensors" in card) == ("lora_format" in train)


def test_measured_effects(project: Project) -> None:
    assert effects_table(project, "tuned") == ""
    evaluate(project, "second", -1.0)
    evaluate(project, "first", 2.0)
    found = effects_table(project, "tuned")
    assert [line for line in found.splitlines() if line.startswith("###")] == ["### first", "### second"]
    rows = table_of(f"\n{found.partition('### second')[0]}", "### first")
    motion = next(info.label for info in FrameScorer.infos.values() if info.is_motion)
    assert len(rows) == len(SCORES) and next(iter(rows)).startswith(motion)
    # gains 2.00 to 2.04 over five prompts: 2.02 -+ 2.776 * 0.00707
    assert all(row[-1] == "+2.02 [+2, +2.04]" for row in rows.values())
    assert "5 prompts (3 held out), 2 seeds each" in found


def test_an_evaluation_of_other_weights_or_runs_does_not_count(project: Project) -> None:
    evaluate(project, "e", 1.0)
    (project.run("other") / "lora").mkdir(parents=True)
    (project.run("other") / "lora" / FILE_NAME).write_bytes(b"other")
    assert effects_table(project, "tuned") and not effects_table(project, "other")
    (project.run("tuned") / "lora" / FILE_NAME).write_bytes(b"trained again")
    assert effects_table(project, "tuned") == ""


def test_the_card_is_updated_in_place(project: Project) -> None:
    path = project.run("tuned") / "README.md"
    fresh = path.read_text()
    update_card(project, "tuned")
    assert path.read_text() == fresh
    evaluate(project, "e", 1.0)
    for _ in range(2):
        update_card(project, "tuned")
        assert path.read_text() == model_card(FACTS, settings(), ROWS, effects=effects_table(project, "tuned"))
    evaluate(project, "e", -1.0)
    update_card(project, "tuned")
    assert path.read_text() == model_card(FACTS, settings(), ROWS, effects=effects_table(project, "tuned"))
    assert "-0.98" in path.read_text() and "+1.02" not in path.read_text()


def test_the_commit_of_a_hub_model() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert hub_revision(Path("hub/models--some--model/snapshots") / commit) == commit
    assert hub_revision(Path("models") / commit) is None
    assert hub_revision(Path("snapshots/main")) is None
