"""A pickle under any name is refused unread.

Each payload would create a marker file if anything unpickled it; a control shows that it can.
"""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  (to write attacks; nothing of ours reads them)
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from densedpo.errors import CheckpointError, DenseDPOError, LabelError, ModelError
from densedpo.models.base import VideoModel
from densedpo.models.full import load_denoiser
from densedpo.models.load import load_model
from densedpo.models.lora import FILE_NAME, load_lora
from densedpo.store.files import sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.checkpoint import load_checkpoint, load_latest, save_checkpoint

pytestmark = pytest.mark.faults

KINDS = ("protocol 0", "protocol 5", "torch", "old torch", "npy", "zip", "safetensors head")
NAMES = ("x.pt", "x.pth", "x.ckpt", "x.bin", "x.npy", "x.npz", "x.zip", "x.pkl", "x.safetensors", FILE_NAME, "x")
PARTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


class Attack:
    """Creates the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def payload(kind: str, marker: Path) -> bytes:
    """Return an attack as one of the formats that hide a pickle."""
    attack, buffer = Attack(marker), io.BytesIO()
    if kind.startswith("protocol"):
        return pickle.dumps(attack, int(kind[-1]))
    if kind.endswith("torch"):
        torch.save(attack, buffer, _use_new_zipfile_serialization=kind == "torch")  # noqa: TID251
    elif kind == "npy":
        np.save(buffer, np.array([attack, None], dtype=object), allow_pickle=True)
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(attack))
    else:
        header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        buffer.write(struct.pack("<Q", len(header)) + header + pickle.dumps(attack))
    return buffer.getvalue()


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The marker; whatever a test does, it must never be there."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "a pickle was run"


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def refused(call: Callable[[], object], error: type[DenseDPOError], *words: str) -> None:
    """One of our errors, in one line."""
    with pytest.raises(error) as found:
        call()
    text = str(found.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_the_payloads_do_run_where_they_are_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "control"
    for kind in KINDS:
        data = payload(kind, marker)
        if kind == "npy":
            np.load(io.BytesIO(data), allow_pickle=True)
        elif kind.endswith("torch"):
            torch.load(io.BytesIO(data), weights_only=False)  # noqa: TID251
        elif kind == "zip":
            pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl"))
        else:
            pickle.loads(data[data.index(b"\x80") :] if kind == "safetensors head" else data)
        assert marker.exists(), kind
        marker.unlink()


# --- LoRA files and folders, tuned denoisers ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_as_a_lora(model: VideoModel, tmp_path: Path, marker: Path, name: str, kind: str) -> None:
    path = tmp_path / "lora" / name
    path.parent.mkdir()
    path.write_bytes(payload(kind, marker))
    refused(lambda: load_lora(model, path), ModelError, str(path), "safetensors")
    refused(lambda: load_lora(model, path.parent), ModelError, str(path.parent))


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_tuned_denoiser(model: VideoModel, folder: Path, marker: Path, kind: str) -> None:
    part = folder / "transformer"
    weights, index = (
        part / f"{PARTS['transformer']}.safetensors",
        part / f"{PARTS['transformer']}.safetensors.index.json",
    )
    data = payload(kind, marker)
    (part / "x.bin").write_bytes(data)
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": "x.bin"}}))
    refused(lambda: load_denoiser(model, part), ModelError, "x.bin")
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": weights.name}}))
    weights.write_bytes(data)
    refused(lambda: load_denoiser(model, part), ModelError, weights.name)
    index.write_bytes(data)
    refused(lambda: load_denoiser(model, part), ModelError, index.name)
    (part / "config.json").write_bytes(data)
    refused(lambda: load_denoiser(model, part), ModelError, "config.json")


# --- model folders ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_as_weights_of_a_model(folder: Path, marker: Path, part: str, kind: str) -> None:
    weights, data = folder / part / f"{PARTS[part]}.safetensors", payload(kind, marker)

    def load() -> None:
        load_model(str(folder), device="cpu")

    names = dict.fromkeys(load_file(weights), "x.bin")
    weights.write_bytes(data)
    refused(load, ModelError, str(weights))
    weights.unlink()
    (folder / part / "x.bin").write_bytes(data)
    index = weights.with_name(f"{weights.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refused(load, ModelError, str(index))
    index.write_bytes(data)
    refused(load, ModelError, str(index))
    index.unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.pt", "model.ckpt"):
        (folder / part / name).write_bytes(data)
    refused(load, ModelError, str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "densedpo.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json",
        "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["protocol 0", "protocol 5"])
def test_as_a_configuration_of_a_model(folder: Path, marker: Path, name: str, kind: str) -> None:
    (folder / name).write_bytes(payload(kind, marker))
    refused(lambda: load_model(str(folder), device="cpu"), ModelError, str(folder))


def test_a_tokenizer_with_code_of_its_own(folder: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps(config))
    (path.parent / "own.py").write_text(f"import os\nos.system('touch {marker}')\nclass Own: ...\n")
    refused(lambda: load_model(str(folder), device="cpu"), ModelError, str(folder))
    assert "[y/N]" not in capsys.readouterr().out  # nobody is asked whether to run it


# --- what training and the stages before it store ---


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_checkpoint(tmp_path: Path, marker: Path, kind: str) -> None:
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {})
    newest = save_checkpoint(tmp_path, 2, {"w": torch.ones(2)}, {})
    for name in ("tensors.safetensors", "state.json"):
        kept = (newest / name).read_bytes()
        (newest / name).write_bytes(payload(kind, marker))
        write_json(newest / "DONE", {n: sha256_file(newest / n) for n in ("tensors.safetensors", "state.json")})
        refused(lambda: load_checkpoint(newest), CheckpointError, "step-2")
        latest = load_latest(tmp_path)
        assert latest is not None and latest.step == 1
        (newest / name).write_bytes(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_table(tmp_path: Path, marker: Path, kind: str) -> None:
    from densedpo.labels.snapshot import load_snapshot

    path = tmp_path / "0123456789abcdef.parquet"
    path.write_bytes(payload(kind, marker))
    refused(lambda: read_table(path), DenseDPOError, str(path))
    refused(lambda: load_snapshot(path), LabelError, str(path))


def test_a_parquet_type_that_names_a_pickle(tmp_path: Path, marker: Path) -> None:
    """Older readers of Parquet unpickled the class of an extension type that a file names."""
    named = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": payload("protocol 0", marker),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table([pa.array([1])], schema=pa.schema([pa.field("x", pa.int64(), metadata=named)])), path)
    assert read_table(path) == [{"x": 1}]


# --- the command line ---


class Result(NamedTuple):
    """What a command returned and said."""

    code: int
    errors: list[str]
    text: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    from densedpo import cli

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own handlers

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["densedpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        text = capsys.readouterr().err
        return Result(int(stopped.value.code or 0), [line for line in text.splitlines() if "error: " in line], text)

    return call


@pytest.fixture(scope="module")
def trained_template(labelled_project_template: Path, tiny_model_folder: Path, tmp_path_factory: Any) -> Path:
    """A labelled project with a run ``tuned``, whose reference errors are cached."""
    from densedpo.config import parse_settings
    from densedpo.training.run import train

    root = Path(shutil.copytree(labelled_project_template, tmp_path_factory.mktemp("trained") / "project"))
    settings = parse_settings({"model": str(tiny_model_folder), "train": {**TRAIN, "precompute_ref_errors": True}})
    train(Project(root), load_model(str(tiny_model_folder), device="cpu"), settings, "tuned", None)
    return root


TRAIN = {"max_steps": 1, "batch_size": 1, "lora_rank": 2, "eval_share": 0, "ref_draws": 2}
TRAIN_FLAGS = ["--max-steps", 1, "--batch-size", 1, "--lora-rank", 2, "--eval-share", 0, "--ref-draws", 2]
SAMPLE = ["sample", "--prompt", "a red circle drifting", "--seeds", 1, "--steps", 1]


@pytest.fixture
def project(trained_template: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(trained_template, tmp_path / "project")))


# What is replaced in the project, and a command that reads it. ``skipped``: said, and the rest goes on.
STORED: dict[str, tuple[list[object], bool]] = {
    "densedpo.yaml": (["label", "status"], False),
    "clips/clips.parquet": (["pairs", "make"], False),
    "clips/*/clip.mp4": (["pairs", "make", "--seed", 5], True),
    "pairs/pairs.parquet": (["label", "status"], False),
    "pairs/*/a.mp4": (["label", "judge", "--force"], False),
    "pairs/*/latents.safetensors": (["train", "--name", "new", *TRAIN_FLAGS], False),
    "labels/labels.db": (["label", "status"], False),
    "labels/snapshots/*.parquet": (["train", "--name", "new", *TRAIN_FLAGS], False),
    "labels/snapshots/latest.json": (["train", "--name", "new", *TRAIN_FLAGS], False),
    "runs/tuned/lora/*.safetensors": ([*SAMPLE, "--run", "tuned"], False),
    "runs/tuned/checkpoints/*/tensors.safetensors": (
        ["train", "--name", "tuned", *TRAIN_FLAGS, "--precompute-ref-errors"],
        True,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", STORED)
def test_in_a_project(
    run: Callable[..., Result], project: Project, tiny_model_folder: Path, marker: Path, place: str
) -> None:
    found = [project.root / place] if "*" not in place else sorted(project.root.glob(place))
    assert found
    for path in found:
        path.write_bytes(payload("torch", marker))
    arguments, skipped = STORED[place]
    model = ["--model", tiny_model_folder] if arguments[0] in {"train", "sample", "pairs"} else []
    result = run(*arguments, *model, "--project", project.root)
    assert "Traceback" not in result.text
    if skipped:
        assert result.code == 0 and "warning: " in result.text, result.text
    else:
        assert (result.code, len(result.errors)) == (1, 1), result.text


@pytest.mark.slow
def test_in_the_caches(run: Callable[..., Result], project: Project, tiny_model_folder: Path, marker: Path) -> None:
    """A cache may be refused or made again; one file of every folder and kind stands for its neighbours."""
    found = {(path.parent, path.suffix): path for path in sorted(project.cache.rglob("*")) if path.is_file()}
    assert {"text", "reference"} <= {path.relative_to(project.cache).parts[0] for path in found.values()}
    for path in found.values():
        kept = path.read_bytes()
        path.write_bytes(payload("torch", marker))
        flags = [*TRAIN_FLAGS, "--precompute-ref-errors", "--model", tiny_model_folder]
        result = run("train", "--name", "new", *flags, "--project", project.root)
        assert "Traceback" not in result.text
        assert result.code == 0 or len(result.errors) == 1, result.text
        path.write_bytes(kept)
        shutil.rmtree(project.run("new"), ignore_errors=True)


@pytest.mark.parametrize("kind", ["protocol 5", "torch", "zip"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x.pt", ["sample", "--prompts"]),
        ("x.csv", ["sample", "--prompts"]),
        ("x.jsonl", ["sample", "--prompts"]),
        ("x.parquet", ["label", "import"]),
        ("x.jsonl", ["label", "import"]),
        ("x.csv", ["label", "import"]),
        ("x.pkl", ["label", "import"]),
        ("x.parquet", ["train", "--snapshot"]),
        ("x.pt", ["train", "--snapshot"]),
        ("x.pt", ["sample", "--prompt", "x", "--model"]),
    ],
)
def test_as_a_file_given_to_a_verb(
    run: Callable[..., Result],
    labelled_project: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    marker: Path,
    name: str,
    arguments: list[str],
    kind: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(payload(kind, marker))
    model = ["--model", tiny_model_folder] if arguments[0] in {"train", "sample"} and "--model" not in arguments else []
    result = run(*arguments, path, *model, "--project", labelled_project)
    assert (result.code, len(result.errors)) == (1, 1) and "Traceback" not in result.text, result.text
    assert str(path) in result.errors[0].replace("\n", "")


@pytest.mark.parametrize("name", ["x.mp4", "x.pt"])
def test_as_a_video_or_its_captions(
    run: Callable[..., Result], tmp_path: Path, marker: Path, tiny_model_folder: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(payload("torch", marker))
    add = ["clips", "add", tmp_path / "in" / name, "--model", tiny_model_folder, "--project", tmp_path / "project"]
    assert "Traceback" not in run(*add).text
    assert not list((tmp_path / "project" / "clips").glob("*/clip.mp4"))
    (tmp_path / "captions.parquet").write_bytes(payload("torch", marker))
    result = run(*add, "--captions", tmp_path / "captions.parquet")
    assert (result.code, len(result.errors)) == (1, 1), result.text


def test_yaml_that_calls(run: Callable[..., Result], tmp_path: Path, marker: Path) -> None:
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"):
        (tmp_path / "densedpo.yaml").write_text(f"model: !!python/{tag} ['touch {marker}']\n")
        result = run("label", "status", "--project", tmp_path)
        assert (result.code, len(result.errors)) == (1, 1), result.text
