"""Streaming frequencies: by hand, and against the distribution that the stream is drawn from."""

import numpy as np
import pytest
import torch

from ssl_domains.tabular.recommendation.frequency import StreamingFrequency


def test_by_hand():
    frequency = StreamingFrequency(3, rate=0.25)
    for step, items in enumerate(([0, 1], [0], [0, 0], [1], [0]), start=1):
        frequency.update(torch.tensor(items), step)
    # item 0: gaps 1, 1, 1, 2 with weights 1, 1/2, 1/3, 1/4; item 1: gaps 1, 3 with weights 1, 1/2
    assert frequency.gap.tolist() == pytest.approx([1.25, 2.0, 0.0])
    assert frequency.weight(torch.tensor([0, 1, 2]), 5).tolist() == pytest.approx([1.25, 2.0, 6.0])


def test_estimates_the_frequencies_of_batches():
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.arange(50.0))
    p /= p.sum()
    frequency = StreamingFrequency(50, rate=0.002)
    size, steps = 8, 6000
    for step in range(1, steps + 1):
        frequency.update(torch.from_numpy(rng.choice(50, size, p=p)), step)
    expected = 1 - (1 - p) ** size
    assert np.abs(1 / frequency.gap.numpy() / expected - 1).mean() < 0.06


def test_a_rate_follows_a_change():
    slow, fast = StreamingFrequency(1, 1e-4), StreamingFrequency(1, 0.2)
    for frequency in (slow, fast):
        for step in [*range(1, 400), *range(400, 800, 10)]:
            frequency.update(torch.tensor([0]), step)
    assert float(fast.gap) > 9.0 > 3.0 > float(slow.gap)
