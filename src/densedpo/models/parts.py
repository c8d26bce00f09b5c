"""What is called of diffusers' classes beside ``nn.Module``: declared for the type checker, which cannot follow them.

A denoiser of a new family must have these; every transformer that derives from diffusers' mixins does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    class Denoiser(nn.Module):
        """A transformer: its configuration, adapters, caches, kernels and checkpointing."""

        config: Mapping[str, Any]
        to_json_string: Callable[[], str]
        peft_config: Mapping[str, Any]  # by adapter; absent before the first one
        add_adapter: Callable[..., None]
        enable_adapters: Callable[[], None]
        disable_adapters: Callable[[], None]
        is_cache_enabled: bool
        enable_cache: Callable[[Any], None]
        disable_cache: Callable[[], None]
        cache_context: Callable[[str], AbstractContextManager[None]]
        _reset_stateful_cache: Callable[[], None]
        set_attention_backend: Callable[[str], None]
        compile_repeated_blocks: Callable[[], None]
        enable_gradient_checkpointing: Callable[..., None]
        disable_gradient_checkpointing: Callable[[], None]

    class Vae(nn.Module):
        """A video autoencoder that can work on tiles."""

        use_tiling: bool
        enable_tiling: Callable[[], None]

else:
    Denoiser = Vae = nn.Module
