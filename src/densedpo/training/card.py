"""The model card beside what a run trained: how it was made, from what, how to load it, and what it changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densedpo.config import Settings, dump_settings
from densedpo.labels.snapshot import LabelSnapshot
from densedpo.models.load import tuned_digest
from densedpo.models.lora import COMFYUI_FILE_NAME
from densedpo.store.files import read_object, write_text
from densedpo.store.project import Project
from densedpo.training.data import PairItem

_SHOWN = (
    ("loss", "loss"),
    ("rewards/accuracies", "implicit accuracy"),
    ("rewards/margins", "reward margin"),
    ("winner_change", "winner's error against the reference"),
    ("loser_change", "loser's error against the reference"),
    ("loser_dominant_ratio", "loser-dominant ratio"),
    ("eval/rewards/accuracies", "implicit accuracy on held-out pairs"),
)
_EFFECTS = "## Measured effects"


def model_card(
    facts: Mapping[str, Any],
    settings: Settings,
    rows: Sequence[Mapping[str, float]],
    *,
    labels: LabelSnapshot | None = None,
    learning: Sequence[PairItem] = (),
    held_out: Sequence[PairItem] = (),
    effects: str = "",
) -> str:
    """Return the card as Markdown; no clock time is in it, so a resumed run writes the same bytes.

    Args:
        facts: what the run is, by name; ``run``, ``method``, ``pairs``, ``pair_mode`` and ``base`` must be there.
        settings: the run's.
        rows: its ``metrics.jsonl``.
        labels: the snapshot that it learned from.
        learning: the pairs that it learned from.
        held_out: the pairs that it was measured on.
        effects: what ``effects_table`` returned.
    """
    full = settings.train.tuning == "full"
    what = "Denoiser" if full else "LoRA"
    last = {words: [row[name] for row in rows if name in row][-1:] for name, words in _SHOWN}
    lines = [
        "---",
        "library_name: diffusers",
        f"tags: [text-to-video, {'full-fine-tuning' if full else 'lora'}, dpo, densedpo]",
        "---",
        f"# {facts['run']}",
        "",
        f"{what} trained with `{facts['method']}` on {facts['pairs']} {facts['pair_mode']} pairs by densedpo.",
        "",
        *_loading(str(facts["base"]), settings),
        "",
        *_table(("fact", "value"), [(_words(n), f"`{v}`") for n, v in facts.items() if v is not None]),
        "",
        "## Data",
        "",
        *_table(("fact", "value"), [(n, str(v)) for n, v in _data(labels, learning, held_out)]),
        "",
        "## Training, last step",
        "",
        *_table(("measure", "value"), [(words, f"{found[0]:.4g}") for words, found in last.items() if found]),
        "",
        "A rising winner's error with a high implicit accuracy means the margin was won by ruining the loser.",
        "",
        _EFFECTS,
        "",
        effects or f"Not measured yet: `densedpo evaluate --run {facts['run']}` compares this run with its base.",
        "",
        "## Licence",
        "",
        "Not stated. These weights derive from the base model, the videos and the labels: their licences apply. State",
        "yours before you share them.",
        "",
        "## Settings",
        "",
        "```yaml",
        dump_settings(settings).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def effects_table(project: Project, run: str) -> str:
    """Return what the project's evaluations found for a run, as Markdown; empty where there is none.

    An evaluation of other weights, made before the run was trained again, does not count.
    """
    digest = tuned_digest(project.run(run))
    parts = []
    for path in sorted(project.evaluations.glob("*/summary.json")):
        summary = read_object(path)
        if summary["hashes"]["loras"].get(run) == digest:
            parts.append("\n".join(_effects(summary, run)))
    return "\n\n".join(parts)


def update_card(project: Project, run: str) -> None:
    """Write what evaluations found by now into the card of a run; without any, or without a card, nothing changes."""
    path, effects = project.run(run) / "README.md", effects_table(project, run)
    if effects and path.exists():
        before, _, rest = path.read_text(encoding="utf-8").partition(f"\n{_EFFECTS}\n")
        _, _, after = rest.partition("\n## ")
        write_text(path, f"{before}\n{_EFFECTS}\n\n{effects}\n\n## {after}")


def _loading(base: str, settings: Settings) -> list[str]:
    """Return how to load what was trained; paths are those beside the card."""
    full, bundled = settings.train.tuning == "full", base == "miniature"
    source = f'resolve_folder("{base}")' if bundled else json.dumps(base, ensure_ascii=False)
    arguments = f"{source}, revision={json.dumps(settings.revision)}" if settings.revision else source
    if full:
        use = [
            'transformer = AutoModel.from_pretrained("transformer")',
            f"pipeline = DiffusionPipeline.from_pretrained({arguments}, transformer=transformer)",
        ]
        comfyui = "It is written in diffusers' layout only."
    else:
        use = [
            f"pipeline = DiffusionPipeline.from_pretrained({arguments})",
            'pipeline.load_lora_weights("lora")',
        ]
        comfyui = "For ComfyUI, repeat the command with `--lora-format comfyui`: it adds a file with ComfyUI's names."
        if settings.train.lora_format != "diffusers":
            comfyui = f"In ComfyUI, copy `lora/{COMFYUI_FILE_NAME}` to `models/loras` and use LoraLoaderModelOnly."
    return [
        "```python",
        f"from diffusers import {'AutoModel, ' if full else ''}DiffusionPipeline",
        *(["from densedpo.models.load import resolve_folder"] if bundled else []),
        "",
        *use,
        "```",
        "",
        comfyui,
    ]


def _data(
    labels: LabelSnapshot | None, learning: Sequence[PairItem], held_out: Sequence[PairItem]
) -> Iterable[tuple[str, object]]:
    """Give facts about the labels and the pairs; each digest is what ``sha256sum`` says of the lines it names."""
    if labels:
        segments = [label for row in labels.rows.values() for label in row.segment_labels]
        yield "label snapshot", f"`{labels.id}`"
        yield "answers from", labels.metadata["source"]
        yield "segment length", f"{labels.segment_s:g} s"
        yield "labelled pairs", len(labels.rows)
        yield "segments", _counts(segments)
        yield "whole videos", _counts([row.clip_label for row in labels.rows.values()])
    for name, items in (("pairs learned from", learning), ("pairs held out", held_out)):
        if items:
            digest = _digest(f"{item.pair_id} {item.sha256_latents}" for item in items)
            yield f"{name}, SHA-256 of `PAIR_ID LATENTS_SHA256` lines", f"`{digest}` ({len(items)})"
    if sources := {item.source_sha256 for item in (*learning, *held_out)}:
        yield "source videos, SHA-256 of their SHA-256 lines", f"`{_digest(sources)}` ({len(sources)})"


def _counts(labels: Sequence[float | None]) -> str:
    given = [label for label in labels if label is not None]
    ties = sum(label == 0 for label in given)
    return f"{len(given) - ties} with a preference, {ties} ties, {len(labels) - len(given)} not labelled"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def _effects(summary: Mapping[str, Any], run: str) -> list[str]:
    made, infos = summary["settings"], summary["score_info"]
    held_out = sum(prompt["held_out"] for prompt in summary["prompts"])
    rows = [
        (
            infos[score]["label"] + (f" ({infos[score]['unit']})" if infos[score]["unit"] else ""),
            infos[score]["better"],
            _estimate(summary["scores"]["base"][score]),
            _estimate(summary["scores"][run][score]),
            _estimate(summary["differences"][run][score], sign="+"),
        )
        for score in sorted(infos, key=lambda score: not infos[score].get("is_motion"))  # it can pay for quality
    ]
    return [
        f"### {summary['name']}",
        "",
        f"{len(summary['prompts'])} prompts ({held_out} held out), {len(summary['seeds'])} seeds each, the same noise "
        f"for both; scorer `{summary['scorer']}`; {made['steps']} steps, guidance {made['cfg']:g}, "
        f"shift {made['shift']:g}. Brackets: 95 % intervals over prompts.",
        "",
        *_table(("measure", "better", "base", "this run", "difference"), rows),
    ]


def _estimate(interval: Mapping[str, float] | None, sign: str = "") -> str:
    if interval is None:
        return "–"
    return f"{interval['mean']:{sign}.4g} [{interval['low']:{sign}.4g}, {interval['high']:{sign}.4g}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


def _words(name: str) -> str:
    return name.replace("_", " ")
