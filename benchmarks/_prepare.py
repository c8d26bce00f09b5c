"""What all variants work on, made once from the base: latents, text, cached reference errors, frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from _measure import timed_ms
from _model import CAPTION, RandomWan, Shape, make_item, make_trainable, random_clips, step_away
from torch import Tensor, nn

from densedpo.config import TrainSettings
from densedpo.models.operations import operations
from densedpo.models.text import TextCondition
from densedpo.models.text_book import TextBook
from densedpo.observe import say
from densedpo.training.data import LatentReader, PairLatents, Visit
from densedpo.training.draws import Draw, DrawLaw
from densedpo.training.reference import AdapterOff, CachedReference, FrozenCopy, precompute

DRAWS = 8  # stored draws of the pair, the setting's default
BETA = 20.0  # 500 is meant for trained weights, whose errors are some 25 times smaller than random ones
Cost = dict[str, dict[str, float]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Bench:
    """What all variants work on: the model, one pair, its text, and the references."""

    model: RandomWan
    visit: Visit
    latents: PairLatents
    text: TextCondition  # of one prompt
    clips: tuple[Tensor, Tensor]  # each [1, 3, T, H, W]
    frozen: nn.Module  # deep copy of the base
    online: AdapterOff | FrozenCopy
    cached: CachedReference
    settings: TrainSettings
    beta: float
    shape: Shape
    law: DrawLaw
    cost: Cost  # of preparing the pair once: operations and milliseconds by what was made

    def draw(self, epoch: int) -> Draw:
        """Return the noise level and noises of a round."""
        return self.law.draw([Visit(self.visit.item, epoch)], self.visit.item.latent_shape)

    @property
    def tuning(self) -> str:
        """``lora`` or ``full``."""
        return self.settings.tuning


def prepare(model: RandomWan, shapes: Sequence[Shape], tuning: str, folder: Path) -> list[Bench]:
    """Prepare a pair of each shape by the base; then move what is trained off the base."""
    settings = TrainSettings.model_validate(
        {
            "method": "structural",
            "tuning": tuning,
            "dtype": str(model.dtype).removeprefix("torch."),
            "micro_batch_size": 1,
            "batch_size": 1,
            "max_steps": 10 * DRAWS,
        }
    )
    base = copy.deepcopy(model.denoiser)  # B0's, without a LoRA
    make_trainable(model, tuning)
    online: AdapterOff | FrozenCopy = AdapterOff(model) if tuning == "lora" else FrozenCopy(model)
    frozen = base if tuning == "lora" else online.denoiser
    benches = []
    for shape in shapes:
        say(f"preparing {shape}")
        place = folder / str(shape)
        place.mkdir()
        benches.append(_bench(model, shape, settings, online, frozen, place))
    step_away(model)
    return benches


def _bench(
    model: RandomWan,
    shape: Shape,
    settings: TrainSettings,
    online: AdapterOff | FrozenCopy,
    frozen: nn.Module,
    place: Path,
) -> Bench:
    cost: Cost = {}
    clips = random_clips(shape, model.device)
    encoded = _priced(cost, "latents", lambda: [model.encode_video(clip)[0] for clip in clips], model.device)
    _priced(cost, "text", lambda: model.encode_text([CAPTION]), model.device)
    item = make_item(model, PairLatents(encoded[0], *encoded), place)
    texts, reader = TextBook(model, [CAPTION], place), LatentReader()
    law = DrawLaw(seed=0, shift=model.defaults.shift, stored=DRAWS)
    caches = iter(("counted", "timed"))  # each pass must find nothing there
    cached = _priced(
        cost,
        "reference",
        lambda: precompute(model, [item], reader, texts, law, settings, place / next(caches)),
        model.device,
    )
    return Bench(
        model=model,
        visit=Visit(item, 0),
        latents=reader.read(item),
        text=texts.stack([CAPTION]),
        clips=clips,
        frozen=frozen,
        online=online,
        cached=cached,
        settings=settings,
        beta=BETA,
        shape=shape,
        law=law,
        cost=cost,
    )


def _priced(cost: Cost, name: str, work: Callable[[], Made], device: torch.device) -> Made:
    """Do the work twice, counted and timed; return what it made."""
    made: list[Made] = []
    cost[name] = {"operations": operations(work), "ms": timed_ms(lambda: made.append(work()), device)}
    return made[0]
