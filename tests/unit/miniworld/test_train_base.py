"""Training the base model: a few steps of both stages, resumed exactly, into a folder that loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from densedpo.errors import ConfigError
from densedpo.miniworld import base_flow, base_vae
from densedpo.miniworld.base_flow import FlowRecipe
from densedpo.miniworld.base_vae import VaeRecipe
from densedpo.miniworld.train_base import BaseRecipe, train_base
from densedpo.models.load import load_model

TINY = BaseRecipe(vae=VaeRecipe(steps=4, clips=6), flow=FlowRecipe(steps=4, clips=8, batch_size=4))


# torch says that bf16 products keep float32 norms apart, which is what we want
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.slow
def test_both_stages_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (base_vae, base_flow):
        monkeypatch.setattr(stage, "CHECKPOINT_EVERY", 2)
    train_base(tmp_path / "whole", tmp_path / "work", TINY)
    for last in (tmp_path / "work").glob("*/step-4"):  # as if killed between the two saves of each stage
        shutil.rmtree(last)
    train_base(tmp_path / "resumed", tmp_path / "work", TINY)
    weights = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(weights) == 3
    for path in weights:
        assert (tmp_path / "resumed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path
    assert load_model(str(tmp_path / "whole"), device="cpu").geometry.num_frames == 33


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="photos"):
        train_base(tmp_path / "photos", tmp_path / "work", TINY)
