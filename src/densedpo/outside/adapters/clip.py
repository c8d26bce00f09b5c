"""Adapter of CLIP and SigLIP: how well the frames fit the prompt. Runs in its own environment, or in ours.

Tried on untrained tiny models of both kinds; never with real weights by this project. Weights are safetensors, and no
code of theirs is run. Input: 16 frames spread evenly over the clip, each resized to the model's own small picture.
Output: ``text_alignment``, the mean over frames of the cosine between picture and prompt (about 0.2 to 0.35 for CLIP:
compare models, the number alone says little), and ``frame_likeness``, the mean cosine of neighbouring frames, which a
still picture maximises.

CLIP reads 77 tokens, SigLIP 64: what a longer prompt says at its end is not looked at. Neither sees motion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from adapter import fingerprint, serve  # type: ignore[import-not-found]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--weights", required=True, help="folder of a CLIP or SigLIP model, e.g. openai/clip-vit-large-patch14"
)
parser.add_argument("--frames", type=int, default=16, help="frames looked at")
parser.add_argument("--device", default="cuda")
given = parser.parse_args()


def load() -> Callable[[str, str], dict[str, float]]:
    """Return the scoring function."""
    import av
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(
        given.weights, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    model = model.eval().to(given.device)
    tokenizer = AutoTokenizer.from_pretrained(given.weights, local_files_only=True, trust_remote_code=False)
    images = AutoImageProcessor.from_pretrained(given.weights, local_files_only=True, trust_remote_code=False)
    length = model.config.text_config.max_position_embeddings
    # SigLIP was trained on texts filled up to their full length
    padding = "max_length" if model.config.model_type.startswith("siglip") else True

    def direction(found: Any) -> Any:
        vectors = getattr(found, "pooler_output", found)  # a tensor in older versions of transformers
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def score(video: str, prompt: str) -> dict[str, float]:
        with av.open(video) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        count = min(given.frames, len(frames))
        chosen = [frames[int((place + 0.5) * len(frames) / count)] for place in range(count)]
        words = tokenizer([prompt or "."], padding=padding, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            text = direction(model.get_text_features(**words.to(given.device)))
            pictures = images(images=chosen, return_tensors="pt").to(given.device)
            seen = direction(model.get_image_features(pixel_values=pictures["pixel_values"]))
        likeness = (seen[1:] * seen[:-1]).sum(dim=-1).mean() if count > 1 else torch.ones(())
        return {"text_alignment": float((seen @ text[0]).mean()), "frame_likeness": float(likeness)}

    return score


serve(
    load,
    name="clip",
    scores=["text_alignment", "frame_likeness"],
    prompted=["text_alignment"],
    identity={"weights": fingerprint(given.weights), "frames": given.frames},
)
