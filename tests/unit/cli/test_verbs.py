"""The command line: the contract's order of verbs, one JSON object, one clear line for each wrong input."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.result import Result

from densedpo.clips.encode import write_video
from densedpo.errors import ConfigError
from densedpo.keys import stream
from densedpo.miniworld import scenes
from densedpo.store.tables import read_table

REAL_CLIPS = Path(__file__).parents[4] / "shared" / "clips"


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    from densedpo import cli

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own handlers

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["densedpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return Result(int(stopped.value.code or 0), captured.out, captured.err)

    return call


def fails(result: Result, *words: str) -> None:
    """One clear line, exit code 1, nothing on standard output."""
    assert result.code == 1, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in result.err, result.err
    for word in words:
        assert word in errors[0], errors[0]
    assert result.out == ""


def contract(run: Run, source: Path, model: Path, project: Path) -> dict[str, dict[str, Any]]:
    """Run the verbs in the order of the contract and return what each printed."""
    captions = source / "captions.csv"
    steps: list[list[object]] = [
        ["clips", "add", source, "--captions", captions, "--model", model],
        ["pairs", "make", "--limit", 4],
        ["label", "judge", "--judge", "metric", "--metric-tie-band", 0],
        ["label", "status"],
        ["label", "audit"],
        ["label", "freeze"],
        ["train", "--method", "dense", "--max-steps", 2, "--batch-size", 2, "--eval-share", 0],
        ["sample", "--prompt", "a red circle drifting", "--run", "dense", "--seeds", 1],
        ["report"],
    ]
    results = {}
    for step in steps:
        result = run(*step, "--project", project, "--json")
        assert result.code == 0, (step, result.err)
        results[" ".join(str(word) for word in step[:2])] = result.value
    return results


def test_the_contract_on_drawn_clips(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert run("miniworld", "clips", source, "--count", 3).code == 0
    found = contract(run, source, tiny_model_folder, tmp_path / "project")
    assert found["clips add"]["clips"] == 3
    assert found["pairs make"]["made"] == 3
    assert sum(found["label judge"]["answers"].values()) == 12
    assert found["label freeze"]["segments"] == 12
    assert Path(found["train --method"]["lora"]).is_file()
    assert Path(found["sample --prompt"]["videos"][0]).is_file()
    assert "<html" in Path(found["report"]["report"]).read_text()
    assert Path(found["report"]["report"]).is_absolute()


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="needs the folder of real clips beside the project")
def test_the_contract_on_real_files(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    found = contract(run, REAL_CLIPS, tiny_model_folder, tmp_path / "project")
    assert found["clips add"]["accepted"] == 4
    assert found["clips add"]["clips"] >= 5  # the long file is split at its cuts
    assert found["pairs make"]["made"] == 4


def test_settings_of_the_project_are_kept(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    source, project = tmp_path / "source", tmp_path / "project"
    run("miniworld", "clips", source, "--count", 1)
    first = ["clips", "add", source, "--captions", source / "captions.csv", "--model", tiny_model_folder]
    assert run(*first, "--project", project).code == 0
    shown = run("train", "--project", project, "--dry-run", "--json", "--beta", 250).value
    assert shown["model"] == str(tiny_model_folder)
    assert shown["train"]["beta"] == 250
    paper = run("train", "--project", project, "--dry-run", "--json", "--preset", "paper").value
    assert (paper["train"]["lora_rank"], paper["train"]["batch_size"], paper["train"]["max_steps"]) == (128, 256, 1000)


def test_wrong_settings(run: Run, tmp_path: Path) -> None:
    fails(run("pairs", "make", "--project", tmp_path, "--eta-low", "1.2"), "pairs.eta_low", "1.2")
    fails(run("pairs", "make", "--project", tmp_path, "--eta-high", "0"), "pairs.eta_high")
    fails(run("pairs", "make", "--project", tmp_path, "--eta-low", ".9", "--eta-high", ".8"), "eta_low (0.9)")
    fails(run("train", "--project", tmp_path, "--method", "magic"), "train.method", "magic")
    fails(run("train", "--project", tmp_path, "--preset", "secret"), "secret", "paper")
    (tmp_path / "densedpo.yaml").write_text("train: {betta: 3}\n")
    fails(run("train", "--project", tmp_path), "train.betta", "unknown setting", "densedpo.yaml")
    (tmp_path / "densedpo.yaml").write_text("train: [\n")
    fails(run("train", "--project", tmp_path), "not readable as YAML")


def test_wrong_usage_exits_with_two(run: Run, tmp_path: Path) -> None:
    assert run("train", "--no-such-flag").code == 2
    assert run("no-such-verb").code == 2
    assert run("clips", "add").code == 2


def test_wrong_folders(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    add = ["clips", "add", "--model", tiny_model_folder, "--project", tmp_path / "project"]
    fails(run(*add, tmp_path / "nowhere"), "nowhere")
    (tmp_path / "empty").mkdir()
    fails(run(*add, tmp_path / "empty"), "empty")
    fails(run("pairs", "make", "--project", tmp_path / "new", "--model", tiny_model_folder), "clips add")
    fails(run("label", "judge", "--project", tmp_path / "new"), "pairs make")
    fails(run("pairs", "make", "--project", tmp_path, "--model", tmp_path / "empty"), "model_index.json")


def test_bad_files_are_named_and_the_rest_goes_on(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    frames = scenes.render(scenes.draw_scene(scenes.subjects()[0], "bad files"))
    write_video(source / "good.mp4", frames, 8.0)
    write_video(source / "short.mp4", frames[:5], 8.0)
    (source / "text.mp4").write_text("a text, renamed")
    (source / "empty.mp4").write_bytes(b"")
    (source / "cut.mp4").write_bytes((source / "good.mp4").read_bytes()[:600])
    rows = [f"{name}.mp4,a red circle drifting" for name in ("good", "short", "text", "empty", "cut", "missing")]
    (source / "captions.csv").write_text("path,caption\n" + "\n".join(rows) + "\n")
    arguments = ["clips", "add", source, "--captions", source / "captions.csv", "--model", tiny_model_folder]
    result = run(*arguments, "--project", tmp_path / "project", "--json")
    assert result.code == 0
    assert (result.value["accepted"], result.value["clips"], len(result.value["rejected"])) == (1, 1, 4)
    for name in ("short", "text", "empty", "cut"):
        lines = [line for line in result.err.splitlines() if f"{name}.mp4" in line and "warning" in line]
        assert len(lines) == 1, (name, result.err)
    assert "missing.mp4" in str(result.value["captions_without_file"]) and "missing.mp4" in result.err


def test_captions_are_found_in_the_folder_or_left_empty(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert run("miniworld", "clips", source, "--count", 2).code == 0
    add = ["clips", "add", source, "--model", tiny_model_folder, "--json", "--project"]
    found = run(*add, tmp_path / "found")
    assert found.code == 0 and "captions.csv" in found.err
    assert all(row["caption"] for row in read_table(tmp_path / "found" / "clips" / "clips.parquet"))
    (source / "captions.csv").unlink()
    left = run(*add, tmp_path / "left")
    assert left.code == 0 and "no captions at all" in left.err
    assert [row["caption"] for row in read_table(tmp_path / "left" / "clips" / "clips.parquet")] == ["", ""]
    next(source.glob("*.mp4")).with_suffix(".txt").write_text("a caption for one")
    some = run(*add, tmp_path / "some")
    assert (some.value["accepted"], len(some.value["rejected"])) == (1, 1)


def test_labels_with_an_unknown_pair(run: Run, pairs_project: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"pair_id": "0123456789abcdef", "segment": 0, "answer": "a"}\n')
    fails(run("label", "import", file, "--project", pairs_project), "0123456789abcdef", "labels.jsonl")


def test_a_lora_of_another_base_is_refused(
    run: Run, tiny_model_folder: Path, labelled_project: Path, tmp_path: Path
) -> None:
    train = ["train", "--max-steps", 1, "--batch-size", 1, "--lora-rank", 2, "--eval-share", 0, "--name", "tuned"]
    assert run(*train, "--model", tiny_model_folder, "--project", labelled_project).code == 0
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    weights = next((other / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    sample = ["sample", "--prompt", "a red circle drifting", "--run", "tuned", "--project", labelled_project]
    fails(run(*sample, "--model", other), "trained on base")


def test_a_pickle_under_any_name_is_refused_unread(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    import pickle  # noqa: TID251  (to write the attack; nothing of ours reads it)

    marker = tmp_path / "marker"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {marker}",))

    lora = tmp_path / "project" / "runs" / "evil" / "lora"
    lora.mkdir(parents=True)
    (lora / "pytorch_lora_weights.safetensors").write_bytes(pickle.dumps(Attack()))
    sample = ["sample", "--prompt", "x", "--run", "evil", "--project", tmp_path / "project"]
    fails(run(*sample, "--model", tiny_model_folder), "safetensors")
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    weights = next((other / "transformer").glob("*.safetensors"))
    weights.unlink()
    weights.with_name("diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    fails(run("sample", "--prompt", "x", "--project", tmp_path / "p", "--model", other), "cannot load")
    assert not marker.exists()


def test_run_names_may_not_lead_outside(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    sample = ["sample", "--prompt", "x", "--run", "../../etc", "--project", tmp_path]
    fails(run(*sample, "--model", tiny_model_folder), "../../etc", "runs")


def test_prompt_files(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    sample = ["sample", "--model", tiny_model_folder, "--project", tmp_path, "--prompts"]
    fails(run(*sample, tmp_path / "none.txt"), "none.txt")
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    fails(run(*sample, tmp_path / "bad.jsonl"), "line 1")
    (tmp_path / "bad.csv").write_text("words\nhello\n")
    fails(run(*sample, tmp_path / "bad.csv"), "no column named prompt")


def test_prompts_of_several_lines(tmp_path: Path) -> None:
    from densedpo.evaluation.prompts import load_prompts

    file = tmp_path / "prompts.csv"
    file.write_bytes(b'prompt,note\r\n"a red circle\ndrifting, slowly",x\r\na blue cross,"y\nz"\r\n')
    assert [prompt.text for prompt in load_prompts(file)] == ["a red circle drifting, slowly", "a blue cross"]
    file.write_bytes(b'note,prompt\n"x\ny",a\n"z"\n')
    with pytest.raises(ConfigError, match="line 4"):
        load_prompts(file)


def test_doctor(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    found = run("doctor", "--model", tiny_model_folder, "--project", tmp_path, "--json").value
    assert found["problems"] == []
    assert found["clip_geometry"]["num_frames"] == 33
    missing = run("doctor", "--model", tmp_path / "none", "--project", tmp_path, "--json")
    assert len(missing.value["problems"]) == 1
    assert missing.code == 1


def test_a_failing_command_leaves_no_settings(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    project, empty = tmp_path / "project", tmp_path / "empty"
    empty.mkdir()
    fails(run("clips", "add", empty, "--project", project, "--model", tiny_model_folder), "empty")
    fails(run("pairs", "make", "--project", project, "--model", tiny_model_folder), "clips add")
    assert not project.exists()


def test_help_says_what_an_empty_setting_means(run: Run) -> None:
    text = " ".join(run("train", "--help").out.split())
    assert "by default its main branch. [revision]" in text
    assert "by default equal to the rank. [train.lora_alpha]" in text
    assert "default: the model family's" not in text


def test_seeds_and_devices(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    assert run("demo", "--project", tmp_path, "--seed", -1).code == 2
    sample = ["sample", "--prompt", "x", "--project", tmp_path, "--model", tiny_model_folder]
    fails(run(*sample, "--seed", -1), "seed")
    fails(run(*sample, "--device", "meta"), "device", "meta")


def test_a_segment_shorter_than_a_frame(run: Run, pairs_project: Path) -> None:
    fails(run("label", "judge", "--project", pairs_project, "--segment-s", 0.1), "shorter than one frame")


@pytest.mark.parametrize("text", ["{}", "[]", "3", "{", '{"id": 3}', '{"id": "../../x"}'])
def test_a_damaged_record_of_the_latest_snapshot(
    run: Run, labelled_project: Path, tiny_model_folder: Path, text: str
) -> None:
    (labelled_project / "labels" / "snapshots" / "latest.json").write_text(text)
    arguments = ["train", "--max-steps", 1, "--project", labelled_project, "--model", tiny_model_folder]
    fails(run(*arguments), "latest.json", "densedpo label freeze")


def test_random_streams_do_not_depend_on_what_ran_before() -> None:
    first = stream("run", "purpose", 1).normal(size=3).tolist()
    stream("run", "other").normal(size=100)
    assert stream("run", "purpose", 1).normal(size=3).tolist() == first


def test_the_doctor_predicts_what_fits(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    result = run("doctor", "--model", tiny_model_folder, "--size", "32x32x33", "--project", tmp_path, "--json")
    assert result.code == 0, result.err
    fit = result.value["fit"]
    assert [need["work"] for need in fit["needs"]] == [
        "pairs",
        *(f"train, {p}" for p in ("none", "save-attention", "full")),
    ]
    assert all(need["memory_bytes_of_one_pair"] > 2**20 and need["seconds_per_pair"] > 0 for need in fit["needs"])
    assert fit["cheapest_policy_that_fits"] == "none"
    fails(run("doctor", "--model", tiny_model_folder, "--size", "32x32", "--project", tmp_path), "--size", "32x32")


def test_clips_are_filtered_by_the_command(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    source, project = tmp_path / "source", tmp_path / "project"
    run("miniworld", "clips", source, "--count", 3)
    fails(run("clips", "filter", "--project", project), "clips add")
    run(
        "clips",
        "add",
        source,
        "--captions",
        source / "captions.csv",
        "--model",
        tiny_model_folder,
        "--project",
        project,
    )
    found = run("clips", "filter", "--project", project, "--json").value
    assert (found["clips"], found["kept"] + found["left_out"]) == (3, 3)
    assert Path(found["picture"]).is_file()
    assert run("clips", "filter", "--min-motion-px-s", 1000, "--project", project, "--json").value["kept"] == 0
    fails(run("pairs", "make", "--project", project), "none of 3 clips is kept", "clips filter")
    service = ["--caption-endpoint", "http://127.0.0.1:9/v1"]
    fails(run("clips", "filter", "--project", project, *service), "caption_model")
