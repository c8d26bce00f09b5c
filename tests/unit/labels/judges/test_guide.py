"""The judge in the guide works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from tests.unit.labels.judges.doubles import noise_pair

from densedpo.labels.judges.base import Judge

GUIDE = Path(__file__).parents[4] / "docs/guides/judges.md"


def test_the_guides_judge_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    (tmp_path / "contrast.py").write_text(blocks[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("contrast", tmp_path / "contrast.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "contrast", module)
    spec.loader.exec_module(module)
    judge = module.ContrastJudge(band=0.01)
    assert isinstance(judge, Judge)
    pair = noise_pair()
    flat = noise_pair()
    flat.frames_b[:] = flat.frames_b.mean().astype("uint8")
    assert (judge.judge(flat).answer, judge.judge(flat.mirrored()).answer) == ("a", "b")
    assert judge.judge(pair).mirrored() == judge.judge(pair.mirrored()) or judge.judge(pair).answer == "tie"
