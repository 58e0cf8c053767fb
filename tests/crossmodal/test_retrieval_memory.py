"""Ranking many queries takes no more memory than ranking few."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np, torch
from ssl_domains.core.retrieval import Lists
from ssl_domains.crossmodal.retrieval import label_ranks, nearest, ranks

torch.set_num_threads(1)
g = torch.randn(12000, 16)
right, labels = Lists(np.arange(12001), np.arange(12000)), np.arange(12000) % 50

def do(n):
    some = Lists(right.offsets[: n + 1], right.values[:n])
    ranks(g[:n], g, some), nearest(g[:n], g, 5), label_ranks(g[:n], g, labels, labels[:n])

do(1500)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
do(12000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_queries():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 200 * 1024  # KiB; the scores of all pairs are 550 MiB
