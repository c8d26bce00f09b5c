"""What ``doctor --size`` says: memory and time of pairs and of training for a model and clip size, on this machine."""

from __future__ import annotations

from typing import Any

from densedpo.config import Settings
from densedpo.observe import say


def examine_fit(settings: Settings, size_text: str) -> dict[str, Any]:
    """Return the needs of pairs and of training under each checkpointing policy, and say them.

    Settings of both stages are the project's. Nothing but configuration and tokenizer files is read.
    """
    import torch

    from densedpo.models.fits import Machine, Size, judged, needs_of_pairs, needs_of_training, policy_that_fits
    from densedpo.models.load import load_shapes, resolve_device
    from densedpo.models.storage import keep_stored
    from densedpo.pairs.plan import resolve_recipe

    device = resolve_device(settings.device)
    train, of_pairs = settings.train, settings.pairs.dtype
    if of_pairs == "auto":
        of_pairs = "float32" if device.type == "cpu" else "bfloat16"
    dtypes = {"pairs": getattr(torch, of_pairs), "train": getattr(torch, train.dtype)}
    machine = Machine.here(device, set(dtypes.values()))

    model = load_shapes(settings.model, revision=settings.revision, dtype=of_pairs)
    size = Size.parse(size_text, model)
    keep_stored(model, settings.pairs.storage_dtype)
    if settings.pairs.vae_tiling:
        model.vae.enable_tiling()
    recipe = resolve_recipe(settings.pairs, model.defaults, settings.seed)
    pairs = needs_of_pairs(
        model,
        size,
        steps=recipe.steps,
        shift=recipe.shift,
        cfg=recipe.cfg,
        eta=(recipe.eta_low + recipe.eta_high) / 2,
        kind=device.type,
    )
    model = load_shapes(settings.model, revision=settings.revision, dtype=train.dtype)
    training = needs_of_training(
        model, size, tuning=train.tuning, rank=train.lora_rank, kind=device.type, storage=train.storage_dtype
    )
    pairs = judged(pairs, machine, dtypes["pairs"])
    training = [judged(need, machine, dtypes["train"]) for need in training]
    say(f"{settings.model} at {size_text} on {device}, {machine.available_bytes / 2**30:.1f} GiB free:")
    for need in (pairs, *training):
        fits = f"{need.pairs_that_fit} at once fit" if need.pairs_that_fit else "DOES NOT FIT"
        first, more = (value / 2**30 for value in (need.memory_bytes(1), need.per_pair_bytes))
        about = f"about {need.seconds_per_pair:,.2g} s a pair"
        say(f"  {need.work}: {first:.2f} GiB with one pair, {more:.2f} GiB each more; {fits}; {about}")
    chosen = policy_that_fits(training)
    way = f"--activation-checkpointing {chosen}" if chosen else "training does not fit in any way; try a smaller size"
    say(f"  cheapest way to train that fits: {way}")
    return {
        "size": size_text,
        "device": str(device),
        "available_bytes": machine.available_bytes,
        "tuning": train.tuning,
        "lora_rank": train.lora_rank,
        "needs": [need.as_dict() for need in (pairs, *training)],
        "cheapest_policy_that_fits": chosen,
    }
