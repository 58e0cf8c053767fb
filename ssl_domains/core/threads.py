"""Decoding in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def in_threads(task: Callable[[int], None], items: Sequence[int]) -> None:
    """Runs a task for each item; in threads unless a data loader's worker does so already."""
    import torch.utils.data

    alone = torch.utils.data.get_worker_info() is not None
    count = 1 if alone else min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4, 16)
    if count < 2 or len(items) < 8:
        for item in items:
            task(item)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(task, items, chunksize=8):
            pass
