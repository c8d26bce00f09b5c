"""What kind of video a file holds, judged by its bytes alone, and whether the file is all there.

The names of files are never trusted: the demuxer is forced to what stands here. Playlists, concat scripts and plain
text have no entry, so nothing can make the decoder open another file.
"""

from __future__ import annotations

import os
from typing import BinaryIO

HEAD_BYTES = 1024

_MOV_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"uuid"))
_MORE_MOV_BOXES = frozenset((b"sidx", b"ssix", b"mfra", b"meta", b"udta", b"emsg", b"prft", b"pdin"))
_PREFIXES = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"\x00\x00\x01\xba": "mpeg",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"YUV4MPEG2 ": "yuv4mpegpipe",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"DKIF": "ivf",
}
_TS_PACKET_BYTES = (188, 192, 204)  # plain, with a timestamp before each packet (m2ts), with error correction


def sniff(head: bytes) -> str | None:
    """Return FFmpeg's name of the container that starts with ``head``, or None if it is no known video container."""
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for prefix, name in _PREFIXES.items():
        if head.startswith(prefix):
            return name
    for size in _TS_PACKET_BYTES:
        sync = head[4 if size == 192 else 0 :: size]
        if len(sync) >= 4 and set(sync[:4]) == {0x47}:
            return "mpegts"
    return None


def expected_bytes(file: BinaryIO, container: str) -> int:
    """Return how many bytes the file must have by its own account; 0 where the container does not say.

    ISO base media files: the end of the last top-level box. Matroska: the end of the segment. AVI: the end of the RIFF
    chunk. ``file`` is read from its start.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if container == "avi":
        return int.from_bytes(file.read(8)[4:], "little") + 8
    if container == "matroska":
        return _matroska_end(file)
    return _boxes_end(file, size) if container == "mov" else 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Return the end of the last box of a known kind; what follows it, some writers' padding, is nobody's."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        if header[4:8] not in _MOV_BOXES | _MORE_MOV_BOXES:
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # "up to the end of the file"
            return size
        if length < 8:
            break
        place += length
    return place


def _matroska_end(file: BinaryIO) -> int:
    file.seek(4)  # the EBML header's own id
    header_bytes = _ebml_number(file)
    if header_bytes is None:
        return 0
    file.seek(header_bytes, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    segment_bytes = _ebml_number(file)
    return 0 if segment_bytes is None else file.tell() + segment_bytes


def _ebml_number(file: BinaryIO) -> int | None:
    """Read a variable-length number; None for "unknown" (all ones, as live streams write) and for none at all."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if value == (1 << 7 * length) - 1 else value
