"""Train the base model of the miniature world and write it in diffusers' folder layout; resumable by repeating.

drawn clips -> VAE (base_vae) -> latents -> text encoder + transformer (base_flow) -> OUTPUT/{vae, transformer, ...}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densedpo.errors import ConfigError
from densedpo.keys import content_id
from densedpo.miniworld import scenes
from densedpo.miniworld.base_flow import TEXT_LENGTH, FlowRecipe, TextToLatents, encode_dataset, train_flow
from densedpo.miniworld.base_vae import VaeRecipe, measure_latents, train_vae
from densedpo.observe import say
from densedpo.store.files import replacing_folder, write_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class BaseRecipe:
    """The whole recipe; its numbers are written beside the model."""

    seed: int = 0
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    flow: FlowRecipe = field(default_factory=FlowRecipe)


# What the miniature samples with, chosen by looking at samples (docs/log.md).
INFERENCE: dict[str, Any] = {
    "steps": 16,
    "cfg": 2.0,
    "shift": 5.0,
    "fps": scenes.FPS,
    "num_frames": scenes.NUM_FRAMES,
    "height": scenes.SIZE_PX,
    "width": scenes.SIZE_PX,
    "text_length": TEXT_LENGTH,
}


def train_base(output: Path, work: Path, recipe: BaseRecipe) -> dict[str, Any]:
    """Train both stages and write the model folder.

    Args:
        output: the model folder to write (replaced whole).
        work: folder for checkpoints, latents and ``metrics.jsonl`` of both stages; repeat with it to resume.
        recipe: all numbers.

    Returns:
        What was trained, as written to ``densedpo.json``.

    Raises:
        ConfigError: if ``output`` exists and is not such a model.
    """
    if output.exists() and not (output / "densedpo.json").is_file():
        raise ConfigError(f"{output}: exists and is no model of ours; choose another --out, it would be replaced")
    # a changed recipe gets folders of its own, so that it never resumes another one's checkpoints
    vae_folder = work / f"vae-{content_id(asdict(recipe.vae), recipe.seed, length=8)}"
    vae = train_vae(vae_folder, recipe.vae, recipe.seed)
    mean, std = measure_latents(vae, recipe.seed)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    flow_folder = work / f"flow-{content_id(asdict(recipe), length=8)}"
    flow_folder.mkdir(parents=True, exist_ok=True)
    latents, captions = encode_dataset(vae, flow_folder, recipe.flow, f"flow-{recipe.seed}")
    tokenizer, model = train_flow(flow_folder, latents, captions, recipe.flow, recipe.seed)
    facts = {"inference": INFERENCE, "recipe": asdict(recipe)}
    write_model(output, vae, tokenizer, model, facts)
    say(f"the base model is in {output}")
    return facts


def write_model(
    output: Path,
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerFast,
    model: TextToLatents,
    facts: dict[str, Any],
) -> None:
    """Write the model folder whole: what ``WanPipeline.from_pretrained`` loads, and ``densedpo.json`` beside it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=facts["inference"]["shift"])
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=model.text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=model.transformer,
    )
    with replacing_folder(output) as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_json(folder / "densedpo.json", facts)
