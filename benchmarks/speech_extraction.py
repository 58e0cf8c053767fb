"""Features in batches against file by file, and how much of a batch is padding.

    python benchmarks/speech_extraction.py [--files 200] [--size small|base]

Recordings of 0.5 to 12 s are written to a temporary folder. Extraction reads them and does a forward pass: of
log-mel frames and a small transformer, or of wav2vec 2.0's base model on the waveform. The figure is the
ratio of CPU seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from ssl_domains.core import registry
from ssl_domains.core.bucket_sampler import Bucket, padding_share
from ssl_domains.core.samplers import Shuffle
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.speech.domain import SpeechDomain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--size", choices=("small", "base"), default="small")
    args = parser.parse_args()
    count = args.files
    registry.scan_core()
    registry.load_domain("speech")
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(1.0, 0.7, count), 0.5, 12.0)
    with tempfile.TemporaryDirectory() as folder:
        for i, length in enumerate(seconds):
            soundfile.write(Path(folder) / f"{i:05d}.wav", rng.normal(0, 0.1, int(16000 * length)), 16000)
        source = SpeechDomain().open(folder)
        if args.size == "small":
            encoder = registry.get("encoder", "speech_transformer")(source.spec, width=128, depth=3, heads=4)
        else:
            encoder = registry.get("encoder", "speech_wav2vec2")(source.spec)  # base, unless told otherwise
        rows = np.arange(count)
        extract(encoder, source, rows[:8])
        spent = {}
        for name, size in (("in batches", 64), ("file by file", 1)):
            begin = time.process_time()
            extract(encoder, source, rows, batch_size=size)
            spent[name] = time.process_time() - begin
            print(f"{name:<14}{seconds.sum() / spent[name]:8.0f} s of audio a CPU second")
    print(f"batches are {spent['file by file'] / spent['in batches']:.2f} times as fast ({args.size})")
    bucket = Bucket(budget=120)
    bucket.prepare(source)
    batches = bucket.epoch(rows, 64, bucket.n_batches(rows, 64) or 1, 0, 0)
    size = max(count // len(batches), 1)
    shuffled = Shuffle().epoch(rows, size, count // size, 0, 0)
    print(f"padding: {padding_share(batches, source.lengths):.1%} in buckets of 120 s, "
          f"{padding_share(shuffled, source.lengths):.1%} shuffled, {size} rows a batch")  # fmt: skip


if __name__ == "__main__":
    main()
