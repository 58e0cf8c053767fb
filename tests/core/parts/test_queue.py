"""FIFO order, wrap-around, side columns; the bank's momentum."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.parts.queue import MemoryBank, Queue


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_queue_holds_the_newest_keys(size, batches):
    queue = Queue(size, 2, {"device": torch.int64})
    pushed, n = [], 0
    for b in batches:
        ids = torch.arange(n, n + b)
        queue.push(torch.stack([ids, -ids], 1).float(), ids, device=ids * 10)
        pushed += ids.tolist()
        n += b
    newest = pushed[-size:]
    held = {
        i: (k.tolist(), d)
        for i, k, d in zip(queue.index.tolist(), queue.keys, queue.column("device").tolist())
    }
    held.pop(-1, None)
    assert held == {i: ([float(i), float(-i)], i * 10) for i in newest}


def test_fresh_queue_is_unit_length_and_unwritten():
    queue = Queue(5, 3)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(5))
    assert queue.index.tolist() == [-1] * 5
    assert {"keys", "index", "position"} <= set(queue.state_dict())


def test_bank_first_write_then_momentum():
    bank = MemoryBank(4, 2, momentum=0.5)
    bank.update(torch.tensor([2]), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(bank.read(torch.tensor([2])), torch.tensor([[1.0, 0.0]]))
    bank.update(torch.tensor([2]), torch.tensor([[0.0, 3.0]]))
    torch.testing.assert_close(bank.read(torch.tensor([2])), torch.full((1, 2), 0.5**0.5))
    assert bank.written.tolist() == [False, False, True, False]
