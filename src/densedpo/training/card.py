"""The model card written beside every LoRA: how it was made, from what, and what training looked like."""

from __future__ import annotations

from typing import Any

from densedpo.config import Settings, dump_settings

_SHOWN = (
    ("loss", "loss"),
    ("rewards/accuracies", "implicit accuracy"),
    ("rewards/margins", "reward margin"),
    ("winner_change", "winner's error against the reference"),
    ("loser_change", "loser's error against the reference"),
    ("loser_dominant_ratio", "loser-dominant ratio"),
    ("eval/rewards/accuracies", "implicit accuracy on held-out pairs"),
)


def model_card(facts: dict[str, Any], settings: Settings, rows: list[dict[str, float]]) -> str:
    """Return the card as Markdown; no clock time is in it, so a resumed run writes the same bytes."""
    lines = [
        "---",
        "library_name: diffusers",
        "tags: [text-to-video, lora, dpo, densedpo]",
        "---",
        f"# {facts['run']}",
        "",
        f"LoRA trained with `{facts['method']}` on {facts['pairs']} {facts['pair_mode']} pairs by densedpo.",
        "",
        "```python",
        'pipeline.load_lora_weights("lora")  # with diffusers, on the base model below',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | `{value}` |" for name, value in facts.items()),
        "",
        "## Training, last step",
        "",
        "| measure | value |",
        "|---|---|",
    ]
    for name, words in _SHOWN:
        values = [row[name] for row in rows if name in row]
        if values:
            lines.append(f"| {words} | {values[-1]:.4g} |")
    lines += [
        "",
        "A rising winner's error with a high implicit accuracy means the margin was won by ruining the loser.",
        "",
        "## Settings",
        "",
        "```yaml",
        dump_settings(settings).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)
