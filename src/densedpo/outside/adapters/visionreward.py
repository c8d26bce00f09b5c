"""Adapter of VisionReward-Video (THUDM/VisionReward, arXiv 2412.21059). Runs in its environment, not in ours.

Never run by this project, which had neither GPU nor the weights (12.5 billion parameters): written from
``inference-video.py`` of that repository.
Input: one frame a second, 24 at most: a segment of 1 s shows it two frames. Every yes-or-no question is one pass.
Output: the share of yes answers in each of nine dimensions, and ``overall``, the project's weighted score.

The repository's list ``VisionReward_video_qa.txt`` has 64 questions; weights are published for the 29 of
``VisionReward_video_qa_select.txt`` alone. So ``overall`` is the mean of weight x (yes 1, no -1) over those 29, and a
dimension is a plain share. Which question belongs to which dimension is our reading of the paper's taxonomy, by line;
``--dimensions FILE`` (JSON: name to line numbers from 0) replaces it. The original compares answers with a small "yes"
although the model says "Yes"; here case does not matter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import fingerprint, serve  # type: ignore[import-not-found]

LONGEST_S = 24
DIMENSIONS = {
    "alignment": range(4),
    "composition": range(4, 6),
    "quality": (*range(10, 20), *range(39, 43)),
    "fidelity": (*range(37, 39), *range(49, 56)),
    "safety": range(60, 64),
    "stability": (*range(6, 10), *range(35, 37), *range(43, 49)),
    "preservation": range(20, 27),
    "dynamic": range(27, 35),
    "physics": range(56, 60),
}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--code", required=True, help="clone of THUDM/VisionReward")
parser.add_argument("--weights", required=True, help="folder of THUDM/VisionReward-Video")
parser.add_argument("--dimensions", help="JSON file that replaces the built-in table of dimensions")
parser.add_argument("--device", default="cuda:0")
parser.add_argument(
    "--trust-code", action="store_true", help="run the Python files that come with the weights; read them first"
)
given = parser.parse_args()
lists = Path(given.code) / "VisionReward_Video"
dimensions = json.loads(Path(given.dimensions).read_text(encoding="utf-8")) if given.dimensions else DIMENSIONS


def load() -> Callable[[str, str], dict[str, float]]:
    """Return the scoring function."""
    if not given.trust_code:
        raise SystemExit("the weights come with Python files of their own: read them, then give --trust-code")
    import torch
    from decord import VideoReader, cpu  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    questions = (lists / "VisionReward_video_qa.txt").read_text(encoding="utf-8").splitlines()
    chosen = (lists / "VisionReward_video_qa_select.txt").read_text(encoding="utf-8").splitlines()
    weights = json.loads((lists / "weight.json").read_text(encoding="utf-8"))
    if len(chosen) != len(weights) or not set(chosen) <= set(questions):
        raise SystemExit(f"{lists}: the chosen questions, their weights and the whole list do not fit together")
    tokenizer = AutoTokenizer.from_pretrained(given.weights, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        given.weights, torch_dtype=torch.bfloat16, trust_remote_code=given.trust_code
    )
    model = model.eval().to(given.device)

    def says_yes(video: torch.Tensor, question: str) -> bool:
        asked = model.build_conversation_input_ids(
            tokenizer=tokenizer, query=question, images=[video], history=[], template_version="chat"
        )
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs = {name: asked[name].unsqueeze(0).to(given.device) for name in names}
        inputs["images"] = [[asked["images"][0].to(given.device, torch.bfloat16)]]
        with torch.no_grad():
            said = model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=128002)
        word: str = tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])
        return word.strip().lower().startswith("yes")

    def score(video: str, prompt: str) -> dict[str, float]:
        reader = VideoReader(video, ctx=cpu(0))
        times = [start for start, _ in reader.get_frame_timestamp(range(len(reader)))]
        seconds = range(min(round(max(times)) + 1, LONGEST_S))
        nearest = [min(range(len(times)), key=lambda index: abs(times[index] - second)) for second in seconds]
        frames = torch.from_numpy(reader.get_batch(nearest).asnumpy()).permute(3, 0, 1, 2)  # [C, T, H, W]
        yes = [says_yes(frames, question.replace("[[prompt]]", prompt)) for question in questions]
        signs = [1 if yes[questions.index(question)] else -1 for question in chosen]
        overall = sum(sign * weight for sign, weight in zip(signs, weights)) / len(weights)  # noqa: B905
        shares = {name: sum(yes[line] for line in lines) / len(lines) for name, lines in dimensions.items()}
        return {**shares, "overall": overall}

    return score


serve(
    load,
    name="visionreward",
    scores=[*dimensions, "overall"],
    prompted=["alignment", "overall"],
    identity={"weights": fingerprint(given.weights), "dimensions": {name: list(v) for name, v in dimensions.items()}},
)
