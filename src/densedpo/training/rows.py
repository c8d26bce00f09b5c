"""From rows of prompts and video files to pairs that can be trained on, without a project folder.

    row {prompt, chosen, rejected, ...} -> frames in the model's geometry -> latents, kept by content
        -> CACHE/ID/{latents.safetensors, row.json} -> PairItem

Files are opened in the bounded child process of ``clips.probe``. A row that cannot be used is one warning; the rest
goes on. What the files held is encoded once: a later call with the same bytes, model and geometry decodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from densedpo.clips.captions import clean
from densedpo.clips.probe import FrameReader, Scan, check_regular
from densedpo.clips.window import resample_times, shot_windows
from densedpo.config import ClipSettings
from densedpo.errors import ConfigError, LabelError, MediaError, ProjectError, TrainingError
from densedpo.keys import content_id
from densedpo.labels.grid import SegmentGrid
from densedpo.models.base import VideoModel
from densedpo.models.sampling import to_video
from densedpo.observe import say, track, warn
from densedpo.store.files import read_object, remove_leftovers, replacing_folder, sha256_file, write_json
from densedpo.store.rows import read_rows
from densedpo.training.data import PairItem, spread_labels
from densedpo.training.row_format import COLUMNS, PairRow, parse_row

_NAMES = {"clip": "clip", "a": "chosen", "b": "rejected"}


@dataclass(frozen=True)
class LeftOut:
    """A row that cannot be used: its number, counted from 1, and why."""

    row: int
    reason: str


class RowDataset(list[PairItem]):
    """Pairs in the order of their rows; ``left_out`` lists the rows that are not among them, with reasons."""

    def __init__(self, items: Iterable[PairItem], left_out: Iterable[LeftOut]) -> None:
        """Keep both."""
        super().__init__(items)
        self.left_out = tuple(left_out)


def dataset_from_rows(
    rows: Iterable[Any] | str | Path,
    model: VideoModel,
    cache: str | Path,
    *,
    segment_s: float = 1.0,
    root: str | Path | None = None,
    limits: ClipSettings | None = None,
) -> RowDataset:
    """Return pairs to train on from TRL-style preference rows.

    Each row has ``prompt`` (text), ``chosen`` and ``rejected`` (paths of video files), and may have:

    - ``segment_labels``: one number in [-1, 1] a segment, + where chosen is better; or a, b (chosen is side a), tie,
      null for unlabelled. Without it every segment is +1. As a whole, chosen always counts as better.
    - ``clip``: path of the real clip that both were made from, for ``sft`` and ``sft_clip``; without it, chosen.
    - ``eta``: noise level that both were made from; without it 1, pure noise.
    - ``id``: a name that no other row has; without it, a digest of the prompt and the videos.

    The model's frame rate, size and length are brought about as in ``clips add``, with one window that starts with the
    file: both videos must give equally many frames; what lies beyond the model's length is not used.

    Args:
        rows: mappings (in a list, a ``datasets.Dataset`` …), or a JSONL, CSV or Parquet file of them.
        model: the model to be trained; its VAE encodes the videos.
        cache: folder for the latents; may be shared between data sets and models.
        segment_s: length of a label segment in seconds.
        root: where relative paths are looked up: by default the folder of the file of rows, or the current one.
        limits: limits for files; by default those of ``clips add``.

    Raises:
        ConfigError: if ``segment_s`` does not fit the model, or ``rows`` is a mapping.
        ProjectError: if a file of rows or the cache folder cannot be used.
        TrainingError: if there are no rows, or none of them can be used.
    """
    geometry = model.geometry
    SegmentGrid(geometry.num_frames, geometry.fps, segment_s)
    if isinstance(rows, Mapping):
        names = ", ".join(str(name) for name in list(rows)[:5])
        raise ConfigError(f"rows: expected one mapping a pair, got a single one with {names}; give one split of it")
    if isinstance(rows, str | Path):
        table = Path(rows)
        rows, root = [row for _, row in read_rows(table)], table.parent if root is None else root
    folder = _prepared(Path(cache).absolute())
    items: dict[str, PairItem] = {}
    left_out: list[LeftOut] = []
    with FrameReader(limits or ClipSettings()) as reader:
        maker = _Maker(model, folder, segment_s, reader)
        for number, row in enumerate(track(rows, "pairs from rows"), start=1):
            maker.note_columns(row)
            try:
                item = maker.item(parse_row(row, Path(root or ".")))
                if item.pair_id in items:
                    raise LabelError(f"id {item.pair_id} is that of an earlier row; give each pair an id of its own")
            except (LabelError, MediaError, ConfigError) as error:
                left_out.append(LeftOut(number, clean(str(error))))
                warn(f"row {number} left out: {left_out[-1].reason}")
                continue
            items[item.pair_id] = item
    if not items:
        first = f"none of {len(left_out)} rows can be used; the first: {left_out[0].reason}" if left_out else "no rows"
        raise TrainingError(f"rows: {first}")
    maker.sum_up(len(items), len(left_out))
    return RowDataset(items.values(), left_out)


def _prepared(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(f"{cache}: cannot be the cache folder ({error.strerror}); name another") from None
    remove_leftovers(cache)
    return cache


class _Maker:
    """Turns checked rows into items and counts what it met."""

    def __init__(self, model: VideoModel, cache: Path, segment_s: float, reader: FrameReader) -> None:
        self._model, self._cache, self._segment_s, self._reader = model, cache, segment_s, reader
        self._encoded = self._longer = 0
        self._unused: dict[str, None] = {}

    def note_columns(self, row: Any) -> None:
        """Remember columns that nothing here reads: one of them may be misspelled."""
        if isinstance(row, Mapping):
            self._unused |= dict.fromkeys(str(name) for name in row if name is not None and name not in COLUMNS)

    def sum_up(self, used: int, left_out: int) -> None:
        """Say in a few lines what was made of the rows."""
        say(f"{used} pairs from rows, {self._encoded} of them encoded now, {left_out} rows left out")
        if self._longer:
            shown_s = self._model.geometry.duration_s
            say(f"pairs with videos of more than {shown_s:g} s, of which only the start is used: {self._longer}")
        if self._unused:
            say(f"columns not used: {clean(', '.join(self._unused))}; known are {', '.join(COLUMNS)}")

    def item(self, row: PairRow) -> PairItem:
        """Return the pair of one row, its latents encoded or found.

        Raises:
            MediaError, LabelError, ConfigError: why this row cannot be used.
        """
        files = {"clip": row.clip or row.chosen, "a": row.chosen, "b": row.rejected}
        digests = {path: _digest(path) for path in dict.fromkeys(files.values())}
        sides = {side: digests[path] for side, path in files.items()}
        if sides["a"] == sides["b"]:
            raise MediaError(f"{row.rejected}: the same video as chosen; leave out this row")
        model, geometry = self._model, self._model.geometry
        key = content_id("row-latents", sides, model.fingerprint, geometry.as_dict())
        folder = self._cache / key
        facts = _stored(folder) or self._encode(folder, files)
        grid = SegmentGrid(facts["num_frames"], geometry.fps, self._segment_s)
        labels = (1.0,) * grid.num_segments if row.segment_labels is None else row.segment_labels
        if len(labels) != grid.num_segments:
            raise LabelError(
                f"segment_labels has {len(labels)} values, expected {grid.num_segments}: {grid.num_frames} frames at "
                f"{geometry.fps:g} fps in segments of {self._segment_s:g} s"
            )
        frame_labels, frame_ties = spread_labels(grid, labels, model.temporal_stride)
        self._longer += facts["longest_s"] > geometry.duration_s + 1 / geometry.fps
        return PairItem(
            pair_id=row.pair_id or content_id("row", key, row.prompt),
            clip_id=content_id("row-clip", sides["clip"]),
            source_sha256=sides["clip"],  # pairs made from one real clip stay on one side of the held-out split
            caption=row.prompt,
            latents_path=folder / "latents.safetensors",
            sha256_latents=facts["sha256_latents"],
            num_segments=grid.num_segments,
            frame_labels=frame_labels,
            frame_ties=frame_ties,
            clip_label=1.0,
            clip_tie=False,
            eta=row.eta,
            latent_shape=model.latent_shape(grid.num_frames, geometry.height, geometry.width),
        )

    def _encode(self, folder: Path, files: dict[str, Path]) -> dict[str, Any]:
        """Encode the videos of a pair and publish their latents whole."""
        scans = {path: self._reader.scan(path) for path in dict.fromkeys(files.values())}
        counts = {side: self._frame_count(path, scans[path]) for side, path in files.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{_NAMES[side]} {count}" for side, count in counts.items() if side != "clip")
            third = f", clip {counts['clip']}" if files["clip"] != files["a"] else ""
            raise MediaError(f"videos of different lengths: {told}{third} frames at {self._model.geometry.fps:g} fps")
        latents = {path: self._latents(path, scan, counts["a"]) for path, scan in scans.items()}
        longest_s = max(scan.end_s for scan in scans.values())
        facts: dict[str, Any] = {"num_frames": counts["a"], "longest_s": longest_s}
        try:
            with replacing_folder(folder) as temporary:
                file = temporary / "latents.safetensors"
                # every tensor its own memory: the format refuses shared storage
                save_file({side: latents[path].clone() for side, path in files.items()}, file)
                facts |= {"sha256_latents": sha256_file(file), "bytes": file.stat().st_size}
                write_json(temporary / "row.json", facts)
        except OSError:
            # another process with the same rows may have been first, as under torchrun
            if (other := _stored(folder)) is None:
                raise
            return other
        self._encoded += 1
        return facts

    def _frame_count(self, path: Path, scan: Scan) -> int:
        windows = shot_windows(0.0, scan.end_s, self._model.geometry, 1, self._segment_s)
        if not windows:
            raise MediaError(
                f"{path}: too short: lasts {scan.end_s:.2f} s, a segment {self._segment_s:g} s at "
                f"{self._model.geometry.fps:g} fps; use a longer video or a smaller segment_s"
            )
        return windows[0].num_frames

    def _latents(self, path: Path, scan: Scan, count: int) -> Tensor:
        """Return normalised latents [C, F, H, W] of the first ``count`` frames at the model's rate."""
        geometry = self._model.geometry
        indices = resample_times(scan.timestamps_s, 0.0, geometry.fps, count)
        frames: NDArray[Any] = self._reader.extract(path, indices, geometry.height, geometry.width)
        # one video at a time: its latents then depend on nothing but itself
        return self._model.encode_video(to_video(frames)[None])[0].float().cpu().contiguous()


def _digest(path: Path) -> str:
    check_regular(path)
    try:
        return sha256_file(path)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from None


def _stored(folder: Path) -> dict[str, Any] | None:
    """Return the facts of a pair that is there whole, else None."""
    latents = folder / "latents.safetensors"
    try:
        facts = read_object(folder / "row.json")
        return facts if latents.stat().st_size == facts["bytes"] else None
    except (ProjectError, OSError, KeyError):
        return None
