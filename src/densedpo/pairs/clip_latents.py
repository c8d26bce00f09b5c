"""Latents of real clips: every clip is encoded once per model and kept on disk, however many pairs are made of it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from densedpo.clips.decode import read_video
from densedpo.errors import MediaError, ProjectError
from densedpo.models.base import VideoModel
from densedpo.models.sampling import to_video
from densedpo.store.files import remove_leftovers, replacing, sha256_file
from densedpo.store.tables import Row


class ClipLatents:
    """The latents of a project's clips, made when they are first asked for, below ``folder``."""

    def __init__(self, model: VideoModel, clips: Path, folder: Path) -> None:
        """Keep what is needed; ``clips`` is the folder of the clips."""
        weight = next(model.vae.parameters())
        self._model, self._clips = model, clips
        made_in = str(weight.dtype).removeprefix("torch.") + (
            "-tiled" if getattr(model.vae, "use_tiling", False) else ""
        )
        self._folder = folder / f"{model.fingerprint}-{made_in}"
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)

    def look(self, clip: Row) -> Tensor | MediaError | None:
        """Return a clip's video [3, T, H, W] if it must still be encoded, None if not, or why it cannot be used.

        Touches files alone, so that a thread can do it ahead.
        """
        path = self._clips / clip["clip_id"] / "clip.mp4"
        try:
            if not path.is_file() or sha256_file(path) != clip["sha256"]:
                raise MediaError(
                    f"clip {clip['clip_id']}: {path} is gone or was changed; run `densedpo clips add` again"
                )
            if self._path(clip).is_file():
                return None
            video = read_video(path)
            if len(video.frames) != clip["num_frames"]:
                raise MediaError(f"clip {clip['clip_id']}: {len(video.frames)} frames, not {clip['num_frames']}")
            return to_video(video.frames)
        except MediaError as error:
            return error

    def read(self, clip: Row, video: Tensor | None) -> Tensor:
        """Return the latents [C, F, H, W] of a clip on the model's device, encoding ``video`` if there are none yet.

        Raises:
            ProjectError: if stored latents are damaged.
        """
        path = self._path(clip)
        if not path.is_file():
            assert video is not None
            # one at a time: in a batch the last bits would depend on which clips were still missing
            latents = self._model.encode_video(video[None])[0].float()
            with replacing(path) as temporary:
                save_file({"latents": latents.cpu().contiguous()}, temporary)
        try:
            return load_file(path)["latents"].to(self._model.device)
        except (OSError, SafetensorError, KeyError) as error:
            raise ProjectError(f"{path}: cannot be read ({error}); remove it and repeat the command") from None

    def _path(self, clip: Row) -> Path:
        return self._folder / f"{clip['clip_id']}-{clip['sha256'][:16]}.safetensors"
