"""Clips per second decoded and augmented, a masked step beside a full one, and memory by length of a clip.

    pip install -e '.[video,image]' psutil
    python benchmarks/video_clips.py [--size 112] [--frames 16] [--batch 8] [--rounds 5] [--files FOLDER]

*Data.* Both sides decode the same H.264 files with PyAV, clip by clip from the key frame before, and make
one MoCo v2 view a
clip: a crop, a flip, colours, grey and blur that are the same for all frames. The plain loop keeps frames
    at the size of the
file and calls torchvision's v2 transforms on each clip ``[T, C, H, W]``; ssl_domains runs its source and
its views. Also
shown: the same with decoded clips kept in the cache. Files are generated (moving stripes, 320 x 240) unless
    a folder is named.

*Step.* VideoMAE's forward and backward passes at 0.9 hidden against the same encoder and decoder with
nothing dropped.

*Memory.* Peak of the process's memory over its start, by frames of a clip, for the masked and the full
step, each in a process of its own.

Times are CPU seconds of this process, the median of several rounds, so that other load counts little.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_domains.core.grid_masking import TubeMask
from ssl_domains.core.random import Draw
from ssl_domains.video.data import VideoSource
from ssl_domains.video.domain import VideoDomain
from ssl_domains.video.encoders.vit import VideoViT
from ssl_domains.video.spec import VideoSpec
from ssl_domains.video.views import ClipAugment


def write_films(folder: Path, n: int, frames: int = 120) -> None:
    """H.264 files of 320 x 240 at 30 frames a second: stripes that move, with noise."""
    import av

    rng = np.random.default_rng(0)
    across = np.arange(320)[None, :] + np.arange(240)[:, None]
    for i in range(n):
        with av.open(str(folder / f"{i:03d}.mp4"), "w") as film:
            stream = film.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for t in range(frames):
                wave = 127 + 80 * np.sin((across + (2 + i % 5) * t) / (10 + i))
                picture = wave[..., None] * rng.uniform(0.8, 1.0, 3) + rng.normal(0, 8, (240, 320, 3))
                shown = picture.clip(0, 255).astype(np.uint8)
                film.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            film.mux(stream.encode(None))


def seconds(call: Callable[[int], Any], rounds: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    found = []
    for i in range(rounds + 1):
        begin = time.process_time()
        call(i)
        found.append(time.process_time() - begin)
    return statistics.median(found[1:])


def plain_clip(path: Path, start: float, frames: int, stride: int) -> torch.Tensor:
    """``[T, 3, H, W]`` uint8: what a loop written from PyAV's documentation does."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(start / stream.time_base), stream=stream)
        shown, count = [], 0
        for frame in container.decode(stream):
            if frame.time < start - 1e-3:
                continue
            if count % stride == 0:
                shown.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            count += 1
            if len(shown) == frames:
                break
        while len(shown) < frames:
            shown.append(shown[-1])
    return torch.stack(shown).permute(0, 3, 1, 2)


def plain_views(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """MoCo v2's augmentation from torchvision; one draw for the frames of a clip."""
    from torchvision.transforms import v2

    kernel = max(int(0.1 * size) // 2 * 2 + 1, 3)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
        ]
    )


def data(folder: Path, args: argparse.Namespace) -> None:
    """Prints clips per second of the loop, of ssl_domains, and of its cache."""
    options = {"frames": args.frames, "stride": 2, "size": args.size, "valid": 0.0, "test": 0.0}
    source = VideoDomain().open(str(folder), **options)
    kept = VideoDomain().open(str(folder), cache=True, **options)
    views = ClipAugment(source.spec, "moco", n_views=1)
    files = sorted(folder.glob("*.mp4")) or sorted(p for p in folder.iterdir() if p.is_file())
    augment = plain_views(args.size)
    n = len(source)

    def rows(i: int) -> np.ndarray:
        return np.arange(i * args.batch, (i + 1) * args.batch) % n

    def loop(i: int) -> None:
        clips = []
        for row in rows(i):
            length = source.facts[row].length
            start = max(length - (args.frames - 1) * 2 / source.facts[row].rate, 0) / 2
            clips.append(augment(plain_clip(files[row], start, args.frames, 2)))
        torch.stack(clips)

    def ours(held: VideoSource) -> Callable[[int], None]:
        def call(i: int) -> None:
            batch = held.fetch(rows(i))
            views(batch, Draw(0, i, batch.index))

        return call

    print(f"clips of {args.frames} frames, {args.size} x {args.size}, one view, batches of {args.batch}")
    base = args.batch / seconds(loop, args.rounds)
    print(f"  {'PyAV and torchvision, clip by clip':<40} {base:8.1f} clips/s")
    for name, held in (("ssl_domains, decoding", source), ("ssl_domains, cached clips", kept)):
        found = args.batch / seconds(ours(held), args.rounds)
        print(f"  {name:<40} {found:8.1f} clips/s  {found / base:5.2f} x")


def step(frames: int, size: int, batch: int, masked: bool) -> Callable[[int], None]:
    """Forward and backward of ViT-S (width 384, 12 blocks) and VideoMAE's decoder."""
    spec = VideoSpec(frames, (size, size), 3, (0.5,) * 3, (0.2,) * 3, frames)
    torch.manual_seed(0)
    encoder = VideoViT(spec, variant="small")
    predictor = encoder.predictor(encoder.target_width)
    x = torch.randint(0, 256, (batch, 3, frames, size, size), dtype=torch.uint8)
    index = torch.arange(batch)

    def call(i: int) -> None:
        mask = TubeMask(0.9)(encoder.layout(x), Draw(0, i, index))
        encoded = encoder(x, mask if masked else None)
        prediction = predictor(encoded, mask, x)
        (prediction - encoder.targets(x).select(mask)).square().mean().backward()

    return call


def held(what: str) -> float:
    """MiB of this process: ``VmRSS`` now, or ``VmHWM``, the most so far (Linux)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak(frames: int, size: int, batch: int, masked: bool) -> float:
    """MiB above what the process held before the first step; to be run in a new process."""
    torch.set_num_threads(1)
    call = step(frames, size, batch, masked)
    Path("/proc/self/clear_refs").write_text("5")  # the most so far begins anew
    before = held("VmRSS")
    for i in range(2):
        call(i)
    return held("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        os.environ["SSL_DOMAINS_CACHE"] = f"{made}/cache"
        folder = args.files or Path(made) / "films"
        if args.files is None:
            folder.mkdir()
            write_films(folder, args.films)
        data(folder, args)
    full, masked = (seconds(step(args.frames, args.size, args.batch, m), args.rounds) for m in (False, True))
    print(f"step of {args.batch} clips: full {full:.2f} s, masked {masked:.2f} s, {full / masked:.2f} x")
    context = mp.get_context("spawn")
    for frames in args.lengths:
        found = []
        for m in (False, True):
            with context.Pool(1) as pool:
                found.append(pool.apply(peak, (frames, args.size, args.batch, m)))
        ratio = found[0] / max(found[1], 0.1)
        print(
            f"memory of a step, {frames} frames: full {found[0]:.0f} MiB, masked {found[1]:.0f} MiB, "
            f"{ratio:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
