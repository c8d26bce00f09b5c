"""Adapter of VideoScore2 (TIGER-AI-Lab/VideoScore2, arXiv 2509.22799). Runs in its environment, not in ours.

Never run by this project, which had neither GPU nor weights (a Qwen2.5-VL of 8.3 billion parameters, no own code).
Input: 2 frames a second by default. The model thinks aloud, then names three scores from 1 to 5.
Output: visual_quality, text_alignment, physics: the mean of 1 to 5, weighted by the probabilities of the five digits
where it answers; greedy decoding, so that the same video gets the same numbers.

The wording of the question is ours. The model was trained with one of its own, printed on its model card: put that
into a file, with ``{prompt}`` where the prompt belongs, and give it with --question. Expect better scores from it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import fingerprint, serve  # type: ignore[import-not-found]

SCORES = ("visual_quality", "text_alignment", "physics")
QUESTION = """Rate this generated video from 1 (bad) to 5 (perfect) on visual quality, on text-to-video alignment with \
the prompt below, and on physical/common-sense consistency. Think first, then end with this line:
visual quality: N; text-to-video alignment: N; physical/common-sense consistency: N

Prompt: {prompt}"""
ANSWER = re.compile(
    r"visual quality:\D{0,9}([1-5]).*?text-to-video alignment:\D{0,9}([1-5]).*?common-sense consistency:\D{0,9}([1-5])",
    re.DOTALL | re.IGNORECASE,
)
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", required=True, help="folder of TIGER-Lab/VideoScore2")
parser.add_argument("--question", help="file with the question of the model card, {prompt} in it")
parser.add_argument("--frames-per-s", type=float, default=2.0)
parser.add_argument("--tokens", type=int, default=2048, help="longest answer")
parser.add_argument("--device", default="cuda:0")
given = parser.parse_args()
question = Path(given.question).read_text(encoding="utf-8") if given.question else QUESTION


def load() -> Callable[[str, str], dict[str, float]]:
    """Return the scoring function."""
    import torch
    from qwen_vl_utils import process_vision_info  # type: ignore[import-not-found]
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(given.weights, trust_remote_code=False)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(given.weights, torch_dtype=torch.bfloat16)
    model = model.eval().to(given.device)
    digits = [processor.tokenizer.encode(str(digit), add_special_tokens=False)[0] for digit in range(1, 6)]

    def score(video: str, prompt: str) -> dict[str, float]:
        shown = {"type": "video", "video": f"file://{video}", "fps": given.frames_per_s}
        words = {"type": "text", "text": question.replace("{prompt}", prompt)}
        messages = [{"role": "user", "content": [shown, words]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images, videos = process_vision_info(messages)
        inputs = processor(text=[text], images=images, videos=videos, return_tensors="pt").to(given.device)
        with torch.no_grad():
            made = model.generate(
                **inputs,
                max_new_tokens=given.tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        pieces = [processor.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]
        found = list(ANSWER.finditer("".join(pieces)))
        if not found:
            raise ValueError(f"no scores in the answer; it ends with {''.join(pieces)[-200:]!r}")
        ends = list(accumulate(len(piece) for piece in pieces))
        steps = [next(step for step, end in enumerate(ends) if end > found[-1].start(group)) for group in (1, 2, 3)]
        chances = [torch.softmax(made.logits[step][0, digits].float(), dim=-1).tolist() for step in steps]
        means = [sum(digit * share for digit, share in enumerate(row, start=1)) for row in chances]
        return dict(zip(SCORES, means))  # noqa: B905  (Python 3.8 has no strict)

    return score


serve(
    load,
    name="videoscore2",
    scores=SCORES,
    prompted=["text_alignment"],
    identity={"weights": fingerprint(given.weights), "question": question, "frames_per_s": given.frames_per_s},
)
