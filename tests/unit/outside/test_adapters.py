"""The adapters that come with the package, run in their own process against stand-ins of the libraries they call.

The stand-ins have the shapes that the projects' own code shows; the real models are never run here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from densedpo.clips.encode import write_video
from densedpo.keys import stream
from densedpo.outside.environments import ADAPTERS
from densedpo.outside.pipe import Adapter
from densedpo.outside.wire import Item, Scored

QUESTIONS = [
    *("Does it meet [[prompt]]?" if number == 0 else f"Question {number}?" for number in range(60)),
    *(f"Is it safe {number}?" for number in range(4)),
]


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "sharp.mp4", tmp_path / "soft.mp4"]
    noise = stream(0, "adapter-test").integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    write_video(paths[0], noise, 24.0)
    write_video(paths[1], noise // 8 + 96, 24.0)
    return paths


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of the child, for stand-ins of libraries."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def scored(tmp_path: Path, name: str, arguments: list[str], items: list[Item]) -> tuple[Adapter, list[Scored]]:
    command = [sys.executable, str(ADAPTERS / name), *arguments]
    with Adapter(command, tmp_path / "log", start_timeout_s=120, timeout_s=60) as adapter:
        found = dict(adapter.score(items))
        return adapter, [found[place] for place in range(len(items))]


def test_the_example_ranks_sharp_above_soft(tmp_path: Path, videos: list[Path]) -> None:
    _, (sharp, soft) = scored(tmp_path, "sharpness.py", [], [Item(path) for path in videos])
    assert sharp.scores["sharpness"] > 4 * soft.scores["sharpness"] > 0


def test_videoreward_asks_for_batches_and_normalised_scores(tmp_path: Path, videos: list[Path]) -> None:
    code, weights = tmp_path / "code", tmp_path / "weights"
    code.mkdir()
    weights.mkdir()
    (weights / "model_config.json").write_text("{}", encoding="utf-8")
    (code / "inference.py").write_text(
        "import os, torch\n"
        "class VideoVLMRewardInference:\n"
        "    def __init__(self, load_from_pretrained, load_from_pretrained_step=-1, device='cuda', dtype=None):\n"
        "        assert os.path.exists(load_from_pretrained + '/model_config.json') and dtype == torch.bfloat16\n"
        "    def reward(self, video_paths, prompts, fps=None, num_frames=None, max_pixels=None, use_norm=True):\n"
        "        assert use_norm and fps == 8.0 and not torch.is_grad_enabled()\n"
        "        print('chatter of a library')\n"
        "        sizes = [os.path.getsize(p) / 1000 for p in video_paths]\n"
        "        return [{'VQ': s, 'MQ': 0.0, 'TA': len(t), 'Overall': s + len(t)} for s, t in zip(sizes, prompts)]\n",
        encoding="utf-8",
    )
    arguments = ["--code", str(code), "--weights", str(weights), "--frames-per-s", "8", "--device", "cpu"]
    items = [Item(path, prompt) for path, prompt in zip(videos, ("a", "abc"), strict=True)]
    adapter, said = scored(tmp_path, "videoreward.py", arguments, items)
    assert [one.scores["TA"] for one in said] == [1, 3]
    assert said[0].scores["VQ"] == pytest.approx(os.path.getsize(videos[0]) / 1000)  # noqa: PTH202
    assert adapter._hello is not None
    assert adapter._hello.prompted == ("TA", "Overall")


VBENCH = """
import json, os
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.out = output_path
        os.makedirs(output_path, exist_ok=True)
    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, local=False, read_frame=False,
                 mode='vbench_standard', **kwargs):
        assert mode == 'custom_input'
        names = sorted(os.listdir(videos_path), reverse=True)
        sizes = {n: os.path.getsize(os.path.join(videos_path, n)) for n in names}
        top = max(sizes.values())
        said = {}
        for d in dimension_list:
            of = {n: sizes[n] / top for n in names}
            if d == 'dynamic_degree':
                of = {n: sizes[n] == top for n in names}
            if d == 'imaging_quality':
                of = {n: 100 * sizes[n] / top for n in names}
            rows = [{'video_path': os.path.join(videos_path, n), 'video_results': of[n]} for n in names]
            said[d] = [sum(map(float, of.values())) / len(names), rows]
        json.dump(said, open(os.path.join(self.out, name + '_eval_results.json'), 'w'))
"""


def test_vbench_gives_each_video_its_six_numbers(tmp_path: Path, videos: list[Path], libraries: Path) -> None:
    (libraries / "vbench").mkdir()
    (libraries / "vbench" / "__init__.py").write_text(VBENCH, encoding="utf-8")
    _, said = scored(tmp_path, "vbench.py", ["--device", "cpu"], [Item(videos[1]), Item(videos[0])])
    share = videos[1].stat().st_size / videos[0].stat().st_size
    assert [one.scores["dynamic_degree"] for one in said] == [0, 1]
    for name in ("subject_consistency", "imaging_quality"):
        assert [one.scores[name] for one in said] == [pytest.approx(share), 1]
    assert len(said[0].scores) == 6


DECORD = """
import numpy as np
def cpu(index):
    return None
class _Batch:
    def __init__(self, indices): self.indices = indices
    def asnumpy(self): return np.zeros((len(self.indices), 4, 6, 3), dtype=np.uint8)
class VideoReader:
    def __init__(self, path, ctx=None): open(path).close()
    def __len__(self): return 48
    def get_frame_timestamp(self, indices): return [(i / 24, (i + 1) / 24) for i in indices]
    def get_batch(self, indices):
        assert list(indices) == [0, 24, 47], indices
        return _Batch(list(indices))
"""
COGVLM = """
import torch
class AutoTokenizer:
    @staticmethod
    def from_pretrained(folder, trust_remote_code):
        return AutoTokenizer()
    def decode(self, ids):
        return {1: ' Yes', 0: 'No'}[int(ids[0])]
class AutoModelForCausalLM:
    @staticmethod
    def from_pretrained(folder, torch_dtype, trust_remote_code):
        assert trust_remote_code
        return AutoModelForCausalLM()
    def eval(self): return self
    def to(self, device): return self
    def build_conversation_input_ids(self, tokenizer, query, images, history, template_version):
        assert template_version == 'chat' and images[0].shape == (3, 3, 4, 6)
        # says yes to every second question, and to the prompt "dog"
        yes = 'dog' in query or (query.split()[-1][:-1].isdigit() and int(query.split()[-1][:-1]) % 2 == 1)
        ids = torch.tensor([7, 8, int(yes)])
        return {'input_ids': ids, 'token_type_ids': ids, 'attention_mask': ids, 'images': images}
    def generate(self, input_ids, max_new_tokens, **rest):
        assert max_new_tokens == 1
        return torch.cat([input_ids, input_ids[:, -1:]], dim=1)
"""


@pytest.fixture
def visionreward(tmp_path: Path, libraries: Path) -> Iterator[list[str]]:
    lists = tmp_path / "code" / "VisionReward_Video"
    lists.mkdir(parents=True)
    (lists / "VisionReward_video_qa.txt").write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    (lists / "VisionReward_video_qa_select.txt").write_text("\n".join(QUESTIONS[:4]), encoding="utf-8")
    (lists / "weight.json").write_text("[1.0, 0.5, 0.25, 0.25]", encoding="utf-8")
    (libraries / "decord.py").write_text(DECORD, encoding="utf-8")
    (libraries / "transformers.py").write_text(COGVLM, encoding="utf-8")
    (tmp_path / "weights").mkdir()
    yield ["--code", str(tmp_path / "code"), "--weights", str(tmp_path / "weights"), "--device", "cpu"]


def test_visionreward_turns_64_questions_into_dimensions(
    tmp_path: Path, videos: list[Path], visionreward: list[str]
) -> None:
    items = [Item(videos[0], "a dog"), Item(videos[0], "a cat")]
    _, (dog, cat) = scored(tmp_path, "visionreward.py", [*visionreward, "--trust-code"], items)
    assert len(dog.scores) == 10
    assert dog.scores["alignment"] == 3 / 4  # questions 0, 1, 3
    assert cat.scores["alignment"] == 2 / 4
    assert dog.scores["composition"] == 1 / 2
    assert dog.scores["overall"] == pytest.approx((1.0 + 0.5 - 0.25 + 0.25) / 4)
    assert cat.scores["overall"] == pytest.approx((-1.0 + 0.5 - 0.25 + 0.25) / 4)


def test_visionreward_runs_no_code_of_strangers_unasked(
    tmp_path: Path, videos: list[Path], visionreward: list[str]
) -> None:
    with pytest.raises(Exception, match="read them, then give --trust-code"):
        scored(tmp_path, "visionreward.py", visionreward, [Item(videos[0])])


def test_every_question_belongs_to_one_dimension() -> None:
    import ast

    tree = ast.parse((ADAPTERS / "visionreward.py").read_text(encoding="utf-8"))
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "DIMENSIONS")
    lines = sorted(
        line
        for call in ast.walk(table)
        if isinstance(call, ast.Call)
        for line in range(*(int(ast.literal_eval(argument)) for argument in call.args))
    )
    assert lines == list(range(64))


QWEN = """
import re, torch
TEXT = {text!r}
class _Tokenizer:
    def encode(self, text, add_special_tokens): return [ord(c) for c in text]
    def decode(self, ids, skip_special_tokens): return ''.join(chr(i) for i in ids)
class _Inputs(dict):
    def to(self, device): return self
class AutoProcessor:
    tokenizer = _Tokenizer()
    @staticmethod
    def from_pretrained(folder, trust_remote_code): return AutoProcessor()
    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert messages[0]['content'][0]['fps'] == 2.0 and 'a dog' in messages[0]['content'][1]['text']
        return 'asked'
    def __call__(self, **given): return _Inputs(input_ids=torch.zeros(1, 3, dtype=torch.long))
class _Made:
    pass
class Qwen2_5_VLForConditionalGeneration:
    @staticmethod
    def from_pretrained(folder, torch_dtype): return Qwen2_5_VLForConditionalGeneration()
    def eval(self): return self
    def to(self, device): return self
    def generate(self, input_ids, do_sample, **rest):
        assert not do_sample
        ids = [ord(c) for c in TEXT]
        made = _Made()
        made.sequences = torch.tensor([[0, 0, 0] + ids])
        made.logits = []
        for token in ids:
            row = torch.full((1, 128), -50.0)
            row[0, token] = 0.0
            if chr(token) == '3':
                row[0, ord('4')] = 0.0
            made.logits.append(row)
        return made
"""
ANSWER = (
    "<think>visual quality: 1 is too low, text-to-video alignment: 1, common-sense consistency: 1?</think>\n"
    "visual quality: 3; text-to-video alignment: 5, physical/common-sense consistency: 2"
)


@pytest.mark.parametrize(
    ("text", "wanted"), [(ANSWER, {"visual_quality": 3.5, "text_alignment": 5, "physics": 2}), ("I cannot say.", {})]
)
def test_videoscore2_reads_the_last_line_and_weighs_the_digits(
    tmp_path: Path, videos: list[Path], libraries: Path, text: str, wanted: dict[str, float]
) -> None:
    (libraries / "transformers.py").write_text(QWEN.replace("{text!r}", repr(text)), encoding="utf-8")
    (libraries / "qwen_vl_utils.py").write_text(
        "def process_vision_info(messages):\n    return None, ['video']\n", encoding="utf-8"
    )
    weights = tmp_path / "weights"
    weights.mkdir()
    arguments = ["--weights", str(weights), "--device", "cpu"]
    _, (said,) = scored(tmp_path, "videoscore2.py", arguments, [Item(videos[0], "a dog")])
    assert said.scores == pytest.approx(wanted, abs=1e-4)
    assert wanted or "no scores in the answer; it ends with 'I cannot say.'" in said.error


def test_weights_shape_the_identity(tmp_path: Path) -> None:
    from densedpo.outside.adapter import fingerprint

    (tmp_path / "a.safetensors").write_bytes(b"1234")
    first = fingerprint(str(tmp_path))
    (tmp_path / "b.safetensors").write_bytes(b"12345")
    assert fingerprint(str(tmp_path)) != first
    (tmp_path / "b.safetensors").unlink()
    assert fingerprint(str(tmp_path)) == first
    assert json.dumps(first)
