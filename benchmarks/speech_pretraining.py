"""Seconds of audio that a pretraining step gets through, against transformers' Wav2Vec2ForPreTraining of
one shape.

    python benchmarks/speech_pretraining.py [--size small|base] [--rounds 5]

The two take turns, so that other load hits both; the figure to look at is the ratio. Both steps hold
forward pass, backward pass and AdamW, on 4 recordings of 8 s; ours draws masks, codes and distractors as
well, theirs by the functions that transformers has for that.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.speech.sound import pad
from ssl_domains.speech.spec import SpeechSpec

SECONDS, ROWS, RATE = 8, 4, 16000
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768,
         "conv_dim": (128,) * 7}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "base"), default="small")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    shape = {"feat_extract_norm": "layer", **(SMALL if args.size == "small" else {})}
    registry.scan_core()
    registry.load_domain("speech")
    rng = np.random.default_rng(0)
    x = pad([rng.normal(0, 0.1, SECONDS * RATE).astype(np.float32) for _ in range(ROWS)])

    encoder = registry.get("encoder", "speech_wav2vec2")(SpeechSpec(), config={**shape, "layerdrop": 0.0})
    objective = registry.get("objective", "info_nce")(in_batch=False, temperature=0.1)
    ours = registry.get("method", "wav2vec2")(encoder, objective, registry.get("mask", "span")())
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4)

    def step_ours(number: int) -> None:
        index = torch.arange(ROWS)
        loss = ours(Batch(x, index), Draw(0, number, index)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    config = transformers.Wav2Vec2Config(**shape, layerdrop=0.0)
    theirs = transformers.Wav2Vec2ForPreTraining(config).train()
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-4)
    n = int(theirs._get_feat_extract_output_lengths(SECONDS * RATE))

    def step_theirs(number: int) -> None:
        mask = _compute_mask_indices((ROWS, n), 0.65, 10)
        negatives = torch.from_numpy(_sample_negative_indices((ROWS, n), 100, mask))
        loss = theirs(
            x.values, mask_time_indices=torch.from_numpy(mask), sampled_negative_indices=negatives
        ).loss
        other.zero_grad()
        loss.backward()
        other.step()

    times: dict[str, list[float]] = {"ssl_domains": [], "transformers": []}
    for number in range(args.rounds + 1):
        for name, step in (("ssl_domains", step_ours), ("transformers", step_theirs)):
            begin = time.process_time()
            step(number)
            if number:  # the first round warms up
                times[name].append(time.process_time() - begin)
    for name, spent in times.items():
        print(f"{name:<14}{SECONDS * ROWS / statistics.median(spent):8.1f} s of audio a CPU second")
    ratio = statistics.median(a / b for a, b in zip(times["transformers"], times["ssl_domains"], strict=True))
    print(f"ours is {ratio:.2f} times as fast ({args.size})")


if __name__ == "__main__":
    main()
