"""Write our own videos (MASTER files that later stages read back, VIEW files that browsers play) and pictures.

Videos are H.264 in MP4 at a constant rate. MASTER keeps full colour resolution (4:4:4), so that judges and models see
what was made; VIEW is 4:2:0, which every browser plays, after small clips have been enlarged by whole numbers so that
their colours survive it. One encoder thread: the same frames always give the same bytes.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from densedpo.errors import MediaError
from densedpo.store.files import replacing

Profile = Literal["master", "view"]

VIEW_SHORT_SIDE_PX = 240
_BT709 = {"colorprim": "bt709", "transfer": "bt709", "colormatrix": "bt709"}
# x264's lookahead made unequal bytes of equal frames from one process to the next (seen on 32x32 clips). A killed and
# repeated job must end with the same files, so there is no lookahead.
_EXACT = {"cpu-independent": "1", "bframes": "0", "rc-lookahead": "0", "mbtree": "0"}
_X264 = ":".join(f"{k}={v}" for k, v in {"threads": "1", "lookahead-threads": "1", **_EXACT, **_BT709}.items())
_OPTIONS: dict[Profile, dict[str, str]] = {
    "master": {"crf": "6", "preset": "fast", "x264-params": _X264},
    "view": {"crf": "16", "preset": "fast", "g": "8", "x264-params": _X264},
}
_PIXELS: dict[Profile, str] = {"master": "yuv444p", "view": "yuv420p"}
_CONTAINER: dict[Profile, dict[str, str]] = {"master": {}, "view": {"movflags": "faststart"}}


def rate_of(fps: float) -> Fraction:
    """Return frames per second as the exact fraction meant: 23.976... is 24000/1001.

    Raises:
        MediaError: if ``fps`` is not a positive number between 0.001 and 1000.
    """
    if not (math.isfinite(fps) and 1e-3 <= fps <= 1000):
        raise MediaError(f"fps must lie between 0.001 and 1000, got {fps}")
    return Fraction(fps).limit_denominator(100_100)


def view_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``frames`` [T, H, W, 3] as the VIEW profile shows them.

    Enlarged by the smallest whole number that brings the short side to 240 px, nearest neighbour; an odd side is then
    padded by its last row or column.
    """
    factor = max(1, math.ceil(VIEW_SHORT_SIDE_PX / min(frames.shape[1:3])))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    odd = ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0))
    return np.pad(large, odd, mode="edge")


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write one picture [H, W, 3], 8-bit RGB, durably to ``path`` as PNG."""
    done, encoded = cv2.imencode(".png", picture[:, :, ::-1])
    assert done
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def write_video(path: Path, frames: NDArray[np.uint8], fps: float, *, profile: Profile = "master") -> None:
    """Write ``frames`` [T, H, W, 3], 8-bit RGB, durably to ``path`` as MP4 at ``fps``.

    ``master``: yuv444p, crf 6, any size, read back within 2 levels on average. ``view``: yuv420p, crf 16, key frame
    every 8, playable while loading, enlarged as ``view_frames`` says.

    Raises:
        MediaError: if ``fps`` is out of range.
    """
    assert frames.dtype == np.uint8, frames.dtype
    assert frames.ndim == 4 and frames.shape[3] == 3 and frames.size, frames.shape
    rate = rate_of(fps)
    shown = frames if profile == "master" else view_frames(frames)
    with (
        replacing(path) as temporary,
        # an open file instead of a name: FFmpeg would read a protocol into a name with a colon
        temporary.open("wb") as file,
        av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}, container_options=_CONTAINER[profile]) as out,
    ):
        stream = out.add_stream("libx264", rate=rate, options=_OPTIONS[profile])
        stream.height, stream.width = shown.shape[1:3]
        stream.pix_fmt = _PIXELS[profile]
        stream.time_base = 1 / rate
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range = int(ColorRange.MPEG)
        stream.codec_context.colorspace = int(Colorspace.ITU709)
        for index, image in enumerate(shown):
            out.mux(stream.encode(_to_yuv(image, _PIXELS[profile], index, 1 / rate)))
        out.mux(stream.encode(None))


def _to_yuv(image: NDArray[np.uint8], pixel_format: str, index: int, time_base: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
        format=pixel_format,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
        threads=1,
    )
    frame.pts, frame.time_base = index, time_base
    return frame
