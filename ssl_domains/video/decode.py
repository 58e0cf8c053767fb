"""One video file to clips: PyAV finds the frames by their time, whatever the rate, codec or rotation."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ssl_domains.core.errors import DataError

Fit = Literal["crop", "squeeze", "pad"]
Raw = str | bytes | tuple[str, ...]

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
TOLERANCE = 2e-3
"""Seconds by which a frame's stamp may lie after the time that asks for it: containers round their stamps."""


class BrokenVideo(Exception):
    """A video that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Decoding:
    """What the frames of a clip become.

    Attributes:
        size: height and width of the pixels kept.
        channels: 1 (grey) or 3 (RGB).
        fit: ``crop``: the short side is brought to size, the middle is cut out; ``squeeze``: both sides are
            brought to size; ``pad``: the long side is brought to size, the rest is black.
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"


@dataclass(frozen=True)
class Facts:
    """What is known of a video before a clip is cut from it.

    Attributes:
        length: seconds from the first frame to the end of the last one, as far as it can be read.
        rate: frames a second, on average; 1 for single frames, whose seconds are their numbers.
        height, width: as shown: turned, with square pixels.
        start: stamp of the first frame in seconds.
        timed: whether frames have stamps; otherwise they are counted.
        turned: degrees of a rotation in the metadata.
        lost: seconds at the end that the header promises and the file does not hold.
        aspect: width of a pixel over its height.
    """

    length: float
    rate: float
    height: int
    width: int
    start: float = 0.0
    timed: bool = True
    turned: int = 0
    lost: float = 0.0
    aspect: float = 1.0


def read_facts(raw: Raw) -> Facts:
    """Length, rate and size; decodes the first frame and looks at the end.

    Raises:
        BrokenVideo: no such file, no video in it, or not one frame that can be decoded.
    """
    if isinstance(raw, tuple):
        height, width = _image(raw[0]).shape[:2]
        return Facts(float(len(raw)), 1.0, height, width)
    with _opened(raw) as (container, stream):
        first = next(_frames(container, stream), None)
        if first is None:
            raise BrokenVideo("holds no frame that can be decoded")
        timed = first.pts is not None
        start = float(first.pts * first.time_base) if timed else 0.0
        rate = _rate(stream)
        aspect = _aspect(stream)
        shown = _shown(first, aspect)
        promised = _promised(container, stream, start)
        if not timed:
            n = 1 + sum(1 for _ in _frames(container, stream))
            return Facts(n / rate, rate, *shown, 0.0, False, _turn(first), 0.0, aspect)
        last = _last_stamp(container, stream, promised, rate, start)
        # Where only the whole file says how long it is, sound may go on after the pictures.
        sure = stream.duration is not None or len(container.streams) == 1
    length = max(last - start, 0.0) + 1 / rate
    # A file that ends more than two frames early was cut off, or its tail is lost.
    lost = 0.0 if promised is None else promised - length
    lost = lost if sure and lost > 2.5 / rate else 0.0
    return Facts(length, rate, *shown, start, True, _turn(first), lost, aspect)


def clip_times(facts: Facts, start: float, end: float, frames: int, step: float, place: float) -> np.ndarray:
    """``[frames]`` seconds after the first frame of the video.

    Args:
        facts: of the video.
        start, end: seconds of the stretch that counts; NaN: the whole.
        frames: of the clip.
        step: seconds from one frame to the next.
        place: of the clip within the stretch, from 0 (at its start) to 1 (at its end). A stretch that is
            shorter than the clip is shown from its start, and its last frame stays.
    """
    low = 0.0 if np.isnan(start) else max(start, 0.0)
    high = facts.length if np.isnan(end) else min(end, facts.length)
    last = max(high - 1 / facts.rate, low)
    free = last - low - (frames - 1) * step
    first = low + max(free, 0.0) * place
    return np.minimum(first + step * np.arange(frames), last)


def read_clip(raw: Raw, times: np.ndarray, facts: Facts, how: Decoding) -> np.ndarray:
    """``[T, H, W, C]`` uint8: for each time the frame that a player would show.

    What cannot be decoded is replaced by the last frame before it that can.

    Args:
        raw: of the video.
        times: ``[T]`` seconds after the first frame, not falling.
        facts: of :func:`read_facts`.
        how: see :class:`Decoding`.

    Raises:
        BrokenVideo: not one frame can be decoded.
    """
    if isinstance(raw, tuple):
        rows = np.clip(np.floor(times + TOLERANCE).astype(np.int64), 0, len(raw) - 1)
        unique, inverse = np.unique(rows, return_inverse=True)
        return np.stack([_fit_array(_image(raw[row]), how) for row in unique])[inverse]
    chosen = _choose(raw, times, facts, seek=facts.timed)
    if not chosen and facts.timed:
        chosen = _choose(raw, times, facts, seek=False)  # the index is wrong: read from the start
    if not chosen:
        raise BrokenVideo("holds no frame that can be decoded")
    chosen += [chosen[-1]] * (len(times) - len(chosen))
    out = np.empty((len(times), *how.size, how.channels), dtype=np.uint8)
    for i, frame in enumerate(chosen):
        out[i] = out[i - 1] if i and frame is chosen[i - 1] else _pixels(frame, facts.aspect, how)
    return out


def _choose(raw: Raw, times: np.ndarray, facts: Facts, seek: bool) -> list[Any]:
    """The frames at these times, fewer when the file breaks off; none when a seek went too far."""
    early = min(TOLERANCE, 0.25 / facts.rate)
    chosen: list[Any] = []
    previous = None
    with _opened(raw) as (container, stream):
        if seek and times[0] > 0:
            target = int((times[0] + facts.start - early) / stream.time_base)
            try:
                container.seek(target, stream=stream, backward=True)
            except _errors():
                return []
        for number, frame in enumerate(_frames(container, stream)):
            if facts.timed:
                if frame.pts is None:
                    continue
                at = float(frame.pts * frame.time_base) - facts.start
            else:
                at = number / facts.rate
            if previous is None and seek and at > times[0] + early:
                return []
            while len(chosen) < len(times) and at > times[len(chosen)] + early:
                chosen.append(frame if previous is None else previous)
            while len(chosen) < len(times) and abs(at - times[len(chosen)]) <= early:
                chosen.append(frame)
            previous = frame
            if len(chosen) == len(times):
                break
    if previous is not None and len(chosen) < len(times):
        chosen.append(previous)
    return chosen


@contextmanager
def _opened(raw: str | bytes | tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """An open container and its first stream of moving pictures."""
    try:
        import av
    except ImportError:
        raise DataError("videos need the package av: pip install 'ssl-domains[video]'") from None

    av.logging.set_level(av.logging.PANIC)  # broken files would write to stderr; our sentence says it
    if isinstance(raw, str) and os.path.isfile(raw) and os.path.getsize(raw) == 0:
        raise BrokenVideo("is empty")
    try:
        # Broken bytes in metadata are no reason to refuse a video.
        container = av.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, metadata_errors="replace")
    except Exception as error:  # a damaged file makes FFmpeg raise nearly anything
        raise BrokenVideo(_reason(error, raw)) from None
    with container:
        yield container, _stream(container)


def _stream(container: Any) -> Any:
    from av.stream import Disposition

    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        kinds = sorted({s.type for s in container.streams})
        raise BrokenVideo(f"holds no video ({' and '.join(kinds) + ' only' if kinds else 'it is empty'})")
    stream = moving[0]
    if stream.codec_context is None:
        raise BrokenVideo("is coded in a way that this FFmpeg cannot decode")
    stream.codec_context.thread_count = 1  # clips of a batch are decoded side by side
    return stream


def _errors() -> tuple[type[Exception], ...]:
    import av

    return (av.error.FFmpegError, OSError, ValueError, EOFError)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Frames from where the container stands; a packet that cannot be decoded is passed over."""
    errors = _errors()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, *errors):  # type: ignore[misc]
            break
        try:
            yield from packet.decode()
        except errors:
            continue


def _rate(stream: Any) -> float:
    for value in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if value and 0 < float(value) <= 1000:
            return float(value)
    return 25.0


def _promised(container: Any, stream: Any, start: float) -> float | None:
    """Seconds that the header says; None where it says nothing."""
    if stream.duration is not None:
        begin = float(stream.start_time * stream.time_base) if stream.start_time is not None else start
        return float(stream.duration * stream.time_base) + begin - start
    if container.duration is not None:
        begin = (container.start_time or 0) / 1e6
        return float(container.duration / 1e6) + begin - start
    return None


def _last_stamp(container: Any, stream: Any, promised: float | None, rate: float, start: float) -> float:
    """Stamp of the last frame that the file holds: read behind the last key frame, or all of it."""
    if promised is not None:
        try:
            container.seek(int((start + max(promised - 1 / rate, 0)) / stream.time_base), stream=stream)
        except _errors():
            found = None
        else:
            found = _last_packet(container, stream)
        if found is not None:
            return found
    try:
        container.seek(0 if stream.start_time is None else stream.start_time, stream=stream)
    except _errors():
        return start
    found = _last_packet(container, stream)
    return start if found is None else found


def _last_packet(container: Any, stream: Any) -> float | None:
    last = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, *_errors()):  # type: ignore[misc]
            return last
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is not None and not packet.is_corrupt:
            stamp = float(shown * packet.time_base)
            last = stamp if last is None else max(last, stamp)


def _turn(frame: Any) -> int:
    """Degrees, counter-clockwise, by which the frame is to be turned for showing: a multiple of 90."""
    return int(round(frame.rotation / 90) * 90) % 360


def _aspect(stream: Any) -> float:
    ratio = stream.sample_aspect_ratio
    return float(ratio) if ratio and 0.1 < float(ratio) < 10 else 1.0


def _shown(frame: Any, aspect: float) -> tuple[int, int]:
    """Height and width with square pixels, turned."""
    height, width = frame.height, max(round(frame.width * aspect), 1)
    return (height, width) if _turn(frame) % 180 == 0 else (width, height)


def scaled(shown: tuple[int, int], size: tuple[int, int], fit: str) -> tuple[int, int]:
    """Height and width to which frames are brought before the middle is cut out, or the rest filled."""
    if fit == "squeeze":
        return size
    factors = (size[0] / shown[0], size[1] / shown[1])
    factor = min(factors) if fit == "pad" else max(factors)
    height, width = (max(round(s * factor), 1) for s in shown)
    if fit == "pad":
        return min(height, size[0]), min(width, size[1])
    return max(height, size[0]), max(width, size[1])


def _pixels(frame: Any, aspect: float, how: Decoding) -> np.ndarray:
    """``[H, W, C]`` uint8 of one frame. swscale brings it to size and to 8-bit RGB in one pass."""
    height, width = scaled(_shown(frame, aspect), how.size, how.fit)
    turn = _turn(frame)
    if turn % 180:
        height, width = width, height
    found = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    return _place(np.rot90(found, turn // 90), how)


def _place(found: np.ndarray, how: Decoding) -> np.ndarray:
    """Cuts the middle out, or fills up with black; grey where one channel is wanted."""
    if how.channels == 1:
        found = (found.astype(np.float32) @ GREY).round().astype(np.uint8)[..., None]
    if found.shape[:2] == how.size:
        return found
    if how.fit == "pad":
        out = np.zeros((*how.size, how.channels), dtype=np.uint8)
        top, left = (how.size[0] - found.shape[0]) // 2, (how.size[1] - found.shape[1]) // 2
        out[top : top + found.shape[0], left : left + found.shape[1]] = found
        return out
    top, left = (found.shape[0] - how.size[0]) // 2, (found.shape[1] - how.size[1]) // 2
    return found[top : top + how.size[0], left : left + how.size[1]]


def _image(path: str) -> np.ndarray:
    """``[H, W, 3]`` of a file that holds one frame."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise BrokenVideo(f"has a frame that cannot be read ({os.path.basename(path)}: {error})") from None


def _fit_array(found: np.ndarray, how: Decoding) -> np.ndarray:
    from PIL import Image

    height, width = scaled((found.shape[0], found.shape[1]), how.size, how.fit)
    if found.shape[:2] != (height, width):
        resized = Image.fromarray(found).resize((width, height), Image.Resampling.BICUBIC)
        found = np.asarray(resized)
    return _place(found, how)


def _reason(error: Exception, raw: Raw) -> str:
    if isinstance(error, BrokenVideo):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "may not be read"
    text = str(getattr(error, "strerror", None) or error).split("\n")[0].strip()
    if "Invalid data" in text or "End of file" in text:
        return "is no video that can be read, or was cut off before its index"
    return f"cannot be opened ({text or type(error).__name__})"
