"""What text encoders say of prompts: one or several tensors by name, which belong together and are batched together.

Every family has ``hidden`` [B, L, D]. Some denoisers take more, such as a ``mask`` [B, L] of the tokens that count or a
``pooled`` [B, P] summary; nothing outside the family's own file looks at those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextCondition:
    """The condition of B prompts.

    Attributes:
        tensors: by name, all with B as first dimension.
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def cat(cls, parts: Sequence[TextCondition]) -> TextCondition:
        """Return the conditions one behind the other, with the names of the first."""
        return cls({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})

    @property
    def hidden(self) -> Tensor:
        """Embeddings of the tokens, [B, L, D]."""
        return self.tensors["hidden"]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.hidden.device

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.hidden)

    def __getitem__(self, chosen: slice) -> TextCondition:
        """Return the condition of some prompts."""
        return self._each(lambda tensor: tensor[chosen])

    def expand(self, count: int) -> TextCondition:
        """Return the condition of one prompt ``count`` times, without copying it."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def repeat_interleave(self, times: int) -> TextCondition:
        """Return each prompt's condition ``times`` in a row."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def to(self, device: torch.device) -> TextCondition:
        """Return the condition on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TextCondition:
        return TextCondition({name: change(tensor) for name, tensor in self.tensors.items()})
