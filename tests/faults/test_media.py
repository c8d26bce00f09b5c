"""Files that are damaged, oversized or hostile: each is named and set aside, and the next one still works."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import FFmpegError
from tests.unit.clips.makers import moving, write_foreign, write_sound

from densedpo.clips.add import add_clips
from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.probe import FrameReader
from densedpo.clips.worker import NO_OTHER_FILES
from densedpo.config import ClipSettings
from densedpo.errors import MediaError
from densedpo.store.project import Project
from densedpo.store.tables import read_table

pytestmark = pytest.mark.faults

GEOMETRY = ClipGeometry(8.0, 9, 32, 32, 4)
FRAMES = moving(40)


@pytest.fixture(scope="module")
def reader() -> Iterator[FrameReader]:
    with FrameReader(ClipSettings()) as shared:
        yield shared


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("good") / "good.mp4", FRAMES)


def refused(reader: FrameReader, path: Path, reason: str) -> None:
    with pytest.raises(MediaError, match=reason) as caught:
        reader.scan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value).removeprefix(str(path))


def test_control_the_undamaged_file_is_read(reader: FrameReader, good: Path) -> None:
    scan = reader.scan(good)
    assert len(scan.timestamps_s) == 40
    assert (scan.height, scan.width, scan.fps) == (64, 96, 8.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"this is not a video, whatever its name says\n" * 50, "not a known video format"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "not a known video"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "not a known video"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://localhost/</BaseURL></MPD>", "not a known video"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "damaged|no video|no frame|no usable"),
        (b"\x1a\x45\xdf\xa3" + bytes(200), "damaged|no video|no frame"),
        (b"RIFF\xff\xff\xff\x7fAVI LIST", "cut short"),
        (b"GIF89a" + b"\xff" * 300, "damaged|max_pixels|no frame|no usable"),
        (b"YUV4MPEG2 W100000 H100000 F25:1 C420\nFRAME\n", "max_pixels|damaged"),
    ],
    ids=["empty", "text", "hls", "concat", "dash", "header", "ebml", "riff", "gif", "huge-y4m"],
)
def test_what_only_poses_as_video_is_refused(
    reader: FrameReader, tmp_path: Path, good: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "poser.mp4"
    path.write_bytes(content)
    refused(reader, path, reason)
    assert len(reader.scan(good).timestamps_s) == 40


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {}),
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("matroska", "libx264", {}),
        ("avi", "mpeg4", {}),
    ],
    ids=["mp4", "mp4-faststart", "mkv", "avi"],
)
def test_a_file_cut_anywhere_is_never_silently_short(
    reader: FrameReader, tmp_path: Path, container: str, codec: str, options: dict[str, str]
) -> None:
    whole = write_foreign(tmp_path / "whole.bin", FRAMES, container=container, codec=codec, container_options=options)
    assert len(reader.scan(whole).timestamps_s) == 40
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    pid = reader.child_pid
    for length in [*range(1, 64, 9), *np.linspace(64, len(data) - 1, 40).astype(int).tolist()]:
        cut.write_bytes(data[:length])
        with pytest.raises(MediaError, match=re.escape(str(cut))):
            reader.scan(cut)
    assert reader.child_pid == pid, "none of these cuts should cost the child its life"


def test_bits_flipped_in_the_picture_data_never_stop_the_reader(
    reader: FrameReader, tmp_path: Path, good: Path
) -> None:
    data = bytearray(good.read_bytes())
    path = tmp_path / "flipped.mp4"
    outcomes = []
    for seed in range(20):
        damaged = bytearray(data)
        for place in range(100 + seed, len(damaged), 397):
            damaged[place] ^= 1 << (seed % 8)
        path.write_bytes(damaged)
        try:
            outcomes.append(len(reader.scan(path).timestamps_s))
        except MediaError:
            outcomes.append(0)
    assert 0 in outcomes, "this much damage must be noticed at least once"
    assert all(count == 0 or count >= 34 for count in outcomes), outcomes
    assert len(reader.scan(good).timestamps_s) == 40


def test_sound_without_picture_is_refused(reader: FrameReader, tmp_path: Path) -> None:
    refused(reader, write_sound(tmp_path / "sound.mp4"), "no video stream")


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    fifo, device, folder = tmp_path / "fifo.mp4", tmp_path / "device.mp4", tmp_path / "folder.mp4"
    os.mkfifo(fifo)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    dangling = tmp_path / "dangling.mp4"
    dangling.symlink_to(tmp_path / "nowhere")
    with FrameReader(ClipSettings()) as reader:
        for path in (fifo, device, folder):
            refused(reader, path, "not a regular file")
        refused(reader, dangling, "cannot be read")
        assert reader.child_pid is None, "nothing was opened"


def test_the_decoder_cannot_open_another_file(tmp_path: Path, good: Path) -> None:
    # the concat demuxer, which is never chosen by content, stands for any that would open files by name
    script = tmp_path / "script"
    script.write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    with script.open("rb") as file, av.open(file, "r", format="concat", options={"safe": "0"}) as container:
        assert len(list(container.decode(video=0))) == 40, "control: without our option it opens it"
    with script.open("rb") as file, pytest.raises(FFmpegError):
        av.open(file, "r", format="concat", options={"safe": "0"}, container_options=NO_OTHER_FILES)


def test_a_symbolic_link_to_a_video_is_fine(reader: FrameReader, tmp_path: Path, good: Path) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to(good)
    assert len(reader.scan(link).timestamps_s) == 40


def test_a_declared_size_above_the_limit_is_refused_before_decoding(tmp_path: Path, good: Path) -> None:
    with FrameReader(ClipSettings(max_pixels=64 * 96 - 1)) as strict:
        refused(strict, good, "above clips.max_pixels")
    with FrameReader(ClipSettings(max_pixels=64 * 96)) as exact:
        assert exact.scan(good).width == 96


def test_a_header_that_lies_about_the_size_does_no_harm(reader: FrameReader, tmp_path: Path, good: Path) -> None:
    data = good.read_bytes()
    place = data.index(b"avc1", data.index(b"stsd")) + 4 + 24  # width and height in the sample entry
    assert data[place : place + 4] == bytes([0, 96, 0, 64]), "the test must damage what it means to"
    lying = tmp_path / "lying.mp4"
    lying.write_bytes(data[:place] + b"\xea\x60\xea\x60" + data[place + 4 :])
    scan = reader.scan(lying)  # the picture data have the last word
    assert len(scan.timestamps_s) == 40
    assert scan.height * scan.width <= 8 * 64 * 96


def test_only_the_allowed_duration_is_read(good: Path) -> None:
    with FrameReader(ClipSettings(max_duration_s=2.0)) as reader:
        assert len(reader.scan(good).timestamps_s) == 16


HANG = "import sys, time; print('{\"ready\": 1}', flush=True); sys.stdin.readline(); time.sleep(600)"
GARBAGE = "import os; print('{\"ready\": 1}', flush=True); input(); os._exit(7)"


def test_a_decoder_that_hangs_is_stopped_at_the_deadline(good: Path) -> None:
    with FrameReader(ClipSettings(decode_timeout_s=0.5), [sys.executable, "-c", HANG]) as reader:
        refused(reader, good, "not decoded within 0.5 s")
        assert reader.child_pid is None


def test_a_decoder_that_dies_by_itself_is_reported(good: Path) -> None:
    with FrameReader(ClipSettings(), [sys.executable, "-c", GARBAGE]) as reader:
        refused(reader, good, "broke down on it .exit code 7.")


def test_a_decoder_killed_in_the_middle_is_named_and_the_next_file_goes_on(tmp_path: Path, good: Path) -> None:
    frames = moving(20, 240, 320).repeat(30, axis=0)
    long = write_foreign(tmp_path / "long.mp4", frames, options={"preset": "ultrafast"})
    with FrameReader(ClipSettings()) as reader:
        reader.scan(good)
        pid = reader.child_pid
        assert pid is not None
        reader._out.unlink()
        os.mkfifo(reader._out)  # holds less than the frames: the decoder waits in the middle for whoever reads

        def kill_while_it_writes() -> None:
            with reader._out.open("rb") as frames:
                assert frames.read(1)
                os.kill(pid, signal.SIGKILL)

        with ThreadPoolExecutor(1) as thread:
            killed = thread.submit(kill_while_it_writes)
            refused(reader, long, "broke down on it .SIGKILL.")
            killed.result()
        reader._out.unlink()
        assert len(reader.scan(good).timestamps_s) == 40
        assert reader.child_pid not in (None, pid)
        assert len(reader.scan(long).timestamps_s) == 600, "control: without the kill it can be read"


def test_a_decoder_killed_between_files_is_replaced(good: Path) -> None:
    with FrameReader(ClipSettings()) as reader:
        reader.scan(good)
        pid = reader.child_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead, and the reader has not heard of it
        assert len(reader.scan(good).timestamps_s) == 40


def test_a_file_that_needs_too_much_memory_is_refused(tmp_path: Path, good: Path) -> None:
    black = np.zeros((2, 2304, 4096, 3), dtype=np.uint8)  # 14 MB a frame when decoded
    big = write_foreign(tmp_path / "big.mp4", black, options={"preset": "ultrafast"})
    tight = ClipSettings.model_construct(**ClipSettings().model_dump() | {"decode_memory_mb": 24})
    with FrameReader(tight) as reader:
        refused(reader, big, "decode_memory_mb|damaged|broke down")
        assert len(reader.scan(good).timestamps_s) == 40
    with FrameReader(ClipSettings()) as reader:
        assert len(reader.scan(big).timestamps_s) == 2, "control: with more memory it can be read"


def test_a_folder_of_damage_gives_one_reason_a_file_and_keeps_the_good_one(
    tmp_path: Path, good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a good ünï 漢字.mp4", "line\nbreak.mp4", "-dash.mp4", "x" * 250 + ".mp4"):
        (folder / name).write_bytes(good.read_bytes() + name.encode())  # trailing bytes: other content
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:2000])
    (folder / "README.md").write_text("ignored")
    (folder / ".hidden.mp4").write_text("ignored")
    os.mkfifo(folder / "fifo.mp4")
    (folder / "captions.csv").write_text(
        'path,caption\ntext.mp4,x\nempty.mp4,x\ncut.mp4,x\nfifo.mp4,x\ngone.mp4,x\n"line\nbreak.mp4",x\n'
        f"a good ünï 漢字.mp4,x\n-dash.mp4,x\n{'x' * 250}.mp4,x\n",
        encoding="utf-8",
    )
    project = Project(tmp_path / "project")
    summary = add_clips(project, [folder], folder / "captions.csv", GEOMETRY, ClipSettings(), 1.0)
    reasons = {Path(item["path"]).name: item["reason"] for item in summary.rejected}
    assert reasons.keys() == {"text.mp4", "empty.mp4", "cut.mp4", "fifo.mp4"}, reasons
    assert (summary.files, summary.accepted) == (8, 4)
    assert summary.captions_without_file == ["gone.mp4"]
    assert len(read_table(project.clips_table)) == summary.clips == summary.total_clips
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 5
