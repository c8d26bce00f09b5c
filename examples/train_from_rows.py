"""Train the miniature model on preference pairs that lie in folders; about a minute on a CPU.

    FOLDER/chosen/NAME.mp4      the better video
    FOLDER/rejected/NAME.mp4    the worse one, of the same length
    FOLDER/prompts/NAME.txt     the text both were made from
    FOLDER/labels/NAME.txt      optional: who is better in each second: a (chosen), b (rejected) or tie, comma-separated

Run it with ``python examples/train_from_rows.py FOLDER --output runs/first``. A folder that is not there is filled with
drawn pairs first: moving shapes, the rejected ones with a fault in some of their frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from densedpo import DenseDPOConfig, DenseDPOTrainer, SegmentGrid, load_model
from densedpo.clips.encode import write_video
from densedpo.miniworld import scenes
from densedpo.miniworld.defects import plant
from densedpo.observe import say
from densedpo.training.callbacks import Callback
from densedpo.training.data import split_by_source
from densedpo.training.rows import dataset_from_rows

FAULTS = ("wrong colour", "see-through", "missing part", "doubled")


class Progress(Callback):
    """Says how often the trained model prefers the chosen side on pairs that it does not learn from."""

    def on_step(self, row: Mapping[str, float]) -> None:
        """Print held-out accuracy where it was measured."""
        if "eval/rewards/accuracies" in row:
            say(f"step {row['step']}: held-out accuracy {row['eval/rewards/accuracies']:.2f}")


def rows_in(folder: Path) -> list[dict[str, str]]:
    """Return one row a chosen video: the columns that TRL uses, and segment labels where there are some."""
    rows = []
    for chosen in sorted((folder / "chosen").glob("*.mp4")):
        prompt, labels = (folder / name / f"{chosen.stem}.txt" for name in ("prompts", "labels"))
        rows.append(
            {
                "prompt": prompt.read_text(encoding="utf-8"),
                "chosen": str(chosen),
                "rejected": str(folder / "rejected" / chosen.name),
                "segment_labels": labels.read_text(encoding="utf-8") if labels.exists() else "",
            }
        )
    return rows


def draw_pairs(folder: Path, count: int) -> None:
    """Draw pairs whose rejected side has a fault in some of its seconds, and label every second."""
    subjects = scenes.subjects()
    grid = SegmentGrid(scenes.NUM_FRAMES, scenes.FPS)
    for name in ("chosen", "rejected", "prompts", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        subject = subjects[7 * index % len(subjects)]
        scene = scenes.draw_scene(subject, "example", 0, index)
        faulty = plant(FAULTS[index % len(FAULTS)], scene, "example", index)
        touched = set(grid.frame_segment[faulty.touched].tolist())
        labels = ["a" if segment in touched else "tie" for segment in range(grid.num_segments)]
        write_video(folder / "chosen" / f"{index:03d}.mp4", scenes.render(scene), scenes.FPS)
        write_video(folder / "rejected" / f"{index:03d}.mp4", faulty.frames, scenes.FPS)
        (folder / "prompts" / f"{index:03d}.txt").write_text(subject.caption, encoding="utf-8")
        (folder / "labels" / f"{index:03d}.txt").write_text(", ".join(labels), encoding="utf-8")


def main() -> None:
    """Read the pairs, train a LoRA, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with chosen/, rejected/ and prompts/")
    parser.add_argument("--output", type=Path, default=Path("runs/from-rows"), help="folder of the run")
    parser.add_argument("--model", default="miniature", help="miniature, or a model folder in diffusers layout")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    given = parser.parse_args()
    if not given.folder.exists():
        draw_pairs(given.folder, count=32)

    model = load_model(given.model)
    pairs = dataset_from_rows(rows_in(given.folder), model, cache=given.folder / "cache")
    learning, held_out = split_by_source(pairs, eval_share=0.25)
    config = DenseDPOConfig(
        output_dir=given.output,
        seed=0,
        max_steps=given.steps,
        batch_size=8,
        micro_batch_size=8,
        warmup_steps=5,
        eval_steps=10,
        save_steps=20,
    )
    trainer = DenseDPOTrainer(model, config, learning, held_out, callbacks=[Progress()])
    output = trainer.train()
    say(f"{output.steps} steps on {len(learning)} pairs; the LoRA is in {output.saved}")


if __name__ == "__main__":
    main()
