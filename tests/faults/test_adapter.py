"""An outside model that breaks down in every way: one item is lost by name, the rest go on, nothing hangs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from tests.unit.outside.stand_ins import BATCHED, GOOD, MOODY, command, raw

from densedpo.outside.pipe import LARGEST_LINE, MOST_DEATHS, Adapter, AdapterError
from densedpo.outside.wire import Item, Scored

pytestmark = pytest.mark.faults


def run(
    folder: Path, body: str, names: list[str], *, timeout_s: float = 20.0, pids: list[int | None] | None = None
) -> dict[str, Scored]:
    """Score empty files of these names and return what was said by name."""
    items = []
    for name in names:
        (folder / name).write_bytes(b"x")
        items.append(Item(folder / name))
    found = {}
    with Adapter(command(folder, body), folder / "log", start_timeout_s=30, timeout_s=timeout_s) as adapter:
        for place, said in adapter.score(items):
            found[names[place]] = said
            if pids is not None:
                pids.append(adapter.child_pid)
    assert sorted(found) == sorted(names)
    return found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("die.mp4", "died (SIGKILL)"),
        ("exit.mp4", "died (exit code 3); last words: 'out of memory on device 0'"),
        ("raise.mp4", "ValueError: no such codec"),
        ("nan.mp4", "not a finite number: quality"),
        ("none.mp4", "the model gave no number"),
    ],
)
def test_one_bad_item_is_set_aside_with_its_reason(tmp_path: Path, name: str, reason: str) -> None:
    said = run(tmp_path, MOODY, ["a.mp4", name, "b.mp4"])
    assert said["a.mp4"].scores["quality"] == said["b.mp4"].scores["quality"] == 1
    assert not said[name].scores
    assert reason in said[name].error
    assert "\n" not in said[name].error


def test_a_child_that_hangs_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    said = run(tmp_path, MOODY, ["a.mp4", "hang.mp4", "b.mp4"], timeout_s=2.0)
    assert "said nothing for 2 s" in said["hang.mp4"].error
    assert said["b.mp4"].scores


def test_what_kills_the_child_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    body = MOODY.replace("os.kill(os", f"open({str(tmp_path / 'deaths')!r}, 'a').write('x'); os.kill(os")
    run(tmp_path, body, ["die.mp4", "a.mp4"])
    assert (tmp_path / "deaths").read_text() == "xx"


def test_a_death_in_a_batch_costs_one_item(tmp_path: Path) -> None:
    said = run(tmp_path, BATCHED, ["a.mp4", "b.mp4", "die.mp4", "c.mp4", "d.mp4", "e.mp4"])
    assert [name for name, one in said.items() if one.error] == ["die.mp4"]
    assert "exit code 9" in said["die.mp4"].error


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("say('densedpo:{\"id\": 1')", "sent a line that is not JSON"),
        ("say('densedpo:[1]')", "sent a line that is not an object"),
        ("say('densedpo:' + '[' * 100000)", "sent a line that is not JSON"),
        ("answer['id'] += 1; say('densedpo:' + json.dumps(answer))", "answered a question that was not asked (id '"),
        ("del answer['id']; say('densedpo:' + json.dumps(answer))", "answered a question that was not asked"),
        ("answer['id'] = [1]; say('densedpo:' + json.dumps(answer))", "answered a question that was not asked"),
        ("answer['scores'] = {'quality': float('nan')}; say('densedpo:' + json.dumps(answer))", "quality is nan"),
        ("answer['scores'] = {'quality': 1e999}; say('densedpo:' + json.dumps(answer))", "quality is inf"),
        ("answer['scores'] = {'quality': '1.0'}; say('densedpo:' + json.dumps(answer))", "not a finite number"),
        ("answer['scores'] = {'quality': True}; say('densedpo:' + json.dumps(answer))", "quality is True"),
        ("answer['scores'] = {'other': 1}; say('densedpo:' + json.dumps(answer))", "quality is None"),
        ("answer['scores'] = 1.0; say('densedpo:' + json.dumps(answer))", "holds no scores"),
        ("say('densedpo:' + json.dumps({'id': asked['id'], 'error': ''}))", "no reason given"),
        ("sys.exit(0)", "died (exit code 0)"),
        ("os.close(1); time.sleep(60)", "closed its output"),
    ],
)
def test_nonsense_becomes_one_clear_error_and_never_a_number(tmp_path: Path, lines: str, reason: str) -> None:
    otherwise = "else:\n    say('densedpo:' + json.dumps(answer))"
    body = raw(f"if name.startswith('x'):\n    {lines}\n{otherwise}")
    said = run(tmp_path, body, ["a.mp4", "x.mp4", "b.mp4"])
    assert said["a.mp4"].scores == said["b.mp4"].scores == {"quality": 1.0}
    assert not said["x.mp4"].scores
    assert reason in said["x.mp4"].error
    assert len(said["x.mp4"].error) < 1000


@pytest.mark.parametrize("end", ["", "\\n"])
def test_an_oversized_line_is_refused_without_filling_memory(tmp_path: Path, end: str) -> None:
    line = f"sys.stdout.write('densedpo:' + 'y' * {8 * LARGEST_LINE} + '{end}'); sys.stdout.flush(); time.sleep(60)"
    said = run(tmp_path, raw(f"if name.startswith('x'):\n    {line}\nsay('densedpo:' + json.dumps(answer))"),
               ["x.mp4", "b.mp4"])  # fmt: skip
    assert f"above {LARGEST_LINE} bytes" in said["x.mp4"].error
    assert said["b.mp4"].scores


def test_an_adapter_that_always_breaks_stops_the_run(tmp_path: Path) -> None:
    names = [f"die{number}.mp4" for number in range(MOST_DEATHS + 5)]
    with pytest.raises(AdapterError, match=f"broke down on {MOST_DEATHS} videos in a row"):
        run(tmp_path, MOODY, names)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import a_module_that_is_missing", 'died (exit code 1); last words: "ModuleNotFoundError: No module named'),
        ("sys.exit(0)", "died (exit code 0)"),
        ("print('densedpo:{\"densedpo\": 2}'); sys.stdout.flush(); time.sleep(60)", "speaks protocol '2', not 1"),
        ('print(\'densedpo:{"densedpo": 1, "name": "x"}\')', "does not name its scores"),
        ('print(\'densedpo:{"densedpo": 1, "name": "../x", "scores": ["q"]}\')', "lacks a name of letters"),
        ("time.sleep(600)", "said nothing for 3 s"),
    ],
)
def test_what_cannot_start_says_why_and_where_to_look(tmp_path: Path, body: str, reason: str) -> None:
    timeout_s = 3.0 if "said nothing" in reason else 60.0
    with (
        Adapter(command(tmp_path, body), tmp_path / "log", start_timeout_s=timeout_s) as adapter,
        pytest.raises(AdapterError) as raised,
    ):
        assert adapter.hello.name
    text = str(raised.value)
    assert reason in text
    assert "densedpo doctor --setup" in text
    assert "\n" not in text
    if "last words" in text:
        assert str(tmp_path / "log") in text


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no-such-program: cannot be started"):
        assert Adapter([str(tmp_path / "no-such-program")], tmp_path / "log").hello.name


def test_a_child_that_ignores_everything_is_killed_with_its_own_children(tmp_path: Path) -> None:
    body = (
        raw("say('densedpo:' + json.dumps(answer))")
        + f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    )
    adapter = Adapter(command(tmp_path, body), tmp_path / "log", start_timeout_s=30)
    assert adapter.hello.name
    child = adapter._child
    assert child is not None and child.stdin is not None
    child.stdin.close()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    adapter._stop()
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while Path(f"/proc/{grandchild}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{grandchild}/cmdline").read_bytes():  # a zombie that waits for its new parent
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{grandchild}").exists()


def test_a_good_adapter_is_started_once(tmp_path: Path) -> None:
    pids: list[int | None] = []
    run(tmp_path, GOOD, [f"{number}.mp4" for number in range(10)], pids=pids)
    assert len(set(pids)) == 1
    assert sys.platform == "linux"
