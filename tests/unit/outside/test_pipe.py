"""The line protocol between us and a model in another process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.outside.stand_ins import ADAPTER_FOLDER, BATCHED, CHATTY, GOOD, MOODY, command, raw

from densedpo.errors import ConfigError, ModelError
from densedpo.outside.pipe import Adapter, AdapterError, parse_command
from densedpo.outside.wire import Item, Scored


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"clip-{number}.mp4" for number in range(5)]
    for number, path in enumerate(made):
        path.write_bytes(b"x" * (number + 1))
    return made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "adapter.log"


@pytest.fixture
def adapter(tmp_path: Path, log: Path) -> Iterator[Adapter]:
    with Adapter(command(tmp_path, GOOD), log, start_timeout_s=30, timeout_s=10) as made:
        yield made


def results(adapter: Adapter, items: list[Item]) -> list[Scored]:
    found = dict(adapter.score(items))
    assert sorted(found) == list(range(len(items)))
    return [found[place] for place in range(len(items))]


def test_every_video_gets_its_own_numbers(adapter: Adapter, videos: list[Path]) -> None:
    items = [Item(path, "a dog" + " runs" * number) for number, path in enumerate(videos)]
    assert [said.scores for said in results(adapter, items)] == [
        {"quality": number + 1.0, "words": number + 2.0} for number in range(5)
    ]
    assert adapter.hello.name == "size"
    assert adapter.hello.scores == ("quality", "words")


def test_one_child_serves_many_calls(adapter: Adapter, videos: list[Path]) -> None:
    results(adapter, [Item(videos[0])])
    pid = adapter.child_pid
    results(adapter, [Item(videos[1])])
    assert adapter.child_pid == pid is not None
    assert list(adapter.score([])) == []


def test_prompts_of_all_scripts_arrive_whole(adapter: Adapter, videos: list[Path]) -> None:
    assert results(adapter, [Item(videos[0], "Größe\n漢字 \u2028 😀 end")])[0].scores["words"] == 4


def test_a_batch_is_scored_together(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    with Adapter(command(tmp_path, BATCHED), log, start_timeout_s=30) as adapter:
        said = results(adapter, [Item(path) for path in videos])
    assert [one.scores["quality"] for one in said] == [1, 2, 3, 4, 5]
    assert max(one.scores["words"] for one in said) > 1


def test_one_bad_video_of_a_batch_fails_alone(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"x")
    with Adapter(command(tmp_path, BATCHED), log, start_timeout_s=30) as adapter:
        said = results(adapter, [Item(path) for path in [*videos[:2], bad, *videos[2:]]])
    assert [one.error for one in said] == ["", "", "ValueError: bad one", "", "", ""]


def test_what_libraries_print_harms_nothing(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    with Adapter(command(tmp_path, CHATTY), log, start_timeout_s=30) as adapter:
        said = results(adapter, [Item(path) for path in videos])
    assert [one.scores["quality"] for one in said] == [1, 2, 3, 4, 5]
    text = log.read_text()
    assert all(words in text for words in ("importing", "100%", "from C", "descriptor", "child of the child"))


def test_stray_lines_of_a_handmade_adapter_go_to_the_log(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    body = raw("print('warming up'); say('densedpo:' + json.dumps(answer))")
    with Adapter(command(tmp_path, body), log, start_timeout_s=30) as adapter:
        assert results(adapter, [Item(videos[0])])[0].scores == {"quality": 1}
    assert "warming up" in log.read_text()


def test_closing_ends_the_child(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    with Adapter(command(tmp_path, GOOD), log, start_timeout_s=30) as adapter:
        results(adapter, [Item(videos[0])])
        child = adapter._child
        assert child is not None
    assert child.returncode == 0


def test_an_abandoned_call_does_not_mix_up_the_next(tmp_path: Path, log: Path, videos: list[Path]) -> None:
    with Adapter(command(tmp_path, BATCHED), log, start_timeout_s=30) as adapter:
        half = adapter.score([Item(path) for path in videos])
        next(half)
        del half
        assert [one.scores["quality"] for one in results(adapter, [Item(videos[4]), Item(videos[3])])] == [5, 4]


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, videos: list[Path]) -> None:
    script = command(tmp_path, MOODY)
    hanging = tmp_path / "hang.mp4"
    hanging.write_bytes(b"x")
    parent = subprocess.Popen(
        [sys.executable, "-c", f"""
import threading, time
from pathlib import Path
from densedpo.outside.pipe import Adapter
from densedpo.outside.wire import Item
adapter = Adapter({script!r}, Path({str(tmp_path / "log")!r}))
adapter.hello
print(adapter.child_pid, flush=True)
list(adapter.score([Item(Path({str(hanging)!r}))]))
"""],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until = time.monotonic() + 60
    while not Path(f"{hanging}.begun").exists():
        assert time.monotonic() < until, "the child was not asked"
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_the_digest_follows_what_shapes_the_numbers(tmp_path: Path, log: Path) -> None:
    digests = set()
    for number, change in enumerate(["", 'version="2", ', 'identity={"weights": "b"}, ']):
        body = GOOD.replace('version="1", ', change or 'version="1", ')
        with Adapter(command(tmp_path / str(number), body), log, start_timeout_s=30) as adapter:
            digests.add(adapter.hello.digest)
    assert len(digests) == 3


def test_a_command_is_split_as_a_shell_would_and_run_without_one(tmp_path: Path) -> None:
    assert parse_command(f"{sys.executable} 'my adapter.py' --fps 2", "x") == [
        sys.executable, "my adapter.py", "--fps", "2",
    ]  # fmt: skip
    assert parse_command(f"{sys.executable} a.py; rm -rf x", "x")[1:] == ["a.py;", "rm", "-rf", "x"]


def test_a_folder_that_doctor_made_stands_for_its_command(tmp_path: Path) -> None:
    (tmp_path / "adapter.json").write_text(f'{{"command": ["{sys.executable}", "a.py"]}}', encoding="utf-8")
    assert parse_command(str(tmp_path), "x") == [sys.executable, "a.py"]
    (tmp_path / "adapter.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no command"):
        parse_command(str(tmp_path), "x")


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "no command"), ("'open", "No closing quotation"), ("no-such-program-here x", "no program 'no-such-program")],
)
def test_an_unusable_command_is_refused_by_name(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"judge.reward_command: .*{what}"):
        parse_command(text, "judge.reward_command")


def test_the_child_side_needs_nothing_but_an_old_python() -> None:
    """The module parses as Python 3.8 and imports the standard library alone."""
    import ast

    tree = ast.parse((Path(ADAPTER_FOLDER) / "adapter.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {
        (alias.name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names)


def test_an_adapter_error_is_a_model_error() -> None:
    assert issubclass(AdapterError, ModelError)
