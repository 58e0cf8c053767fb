"""Tokens.select under the three kinds of masks, and moving batches."""

import pytest
import torch

from ssl_domains.core.batch import Batch, Mask, Tokens


def test_select_with_target_sets_stacks_by_set_then_row():
    values = torch.arange(2 * 4).view(2, 4, 1).float()
    targets = torch.tensor([[[0, 1], [2, 3]], [[3, 2], [0, 0]]])  # K=2, B=2, n_t=2
    mask = Mask(torch.ones(2, 4, dtype=torch.bool), targets=targets)
    assert Tokens(values).select(mask).flatten().tolist() == [0, 1, 6, 7, 3, 2, 4, 4]


def test_select_of_hidden_and_padding_and_ragged():
    values = torch.arange(6).view(2, 3, 1).float()
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    assert Tokens(values).select(Mask(hidden)).flatten().tolist() == [0, 2, 4, 5]
    assert Tokens(values, padding=padding).select(Mask(hidden)).flatten().tolist() == [0, 4, 5]
    ragged = Tokens(values.flatten(0, 1), segment=torch.tensor([0, 0, 0, 1, 1, 1]))
    assert ragged.select(Mask(hidden.flatten())).flatten().tolist() == [0, 2, 4, 5]
    assert Tokens(values, padding=padding).flat().flatten().tolist() == [0, 1, 3, 4, 5]


def test_context_index_is_the_rectangle_of_visible_tokens():
    hidden = torch.tensor([[True, False, False], [False, False, True]])
    assert Mask(hidden).context_index().tolist() == [[1, 2], [0, 1]]
    with pytest.raises(ValueError, match="different numbers"):
        Mask(torch.tensor([[True, True, False], [False, False, True]])).context_index()


def test_batch_moves_every_tensor():
    batch = Batch(
        {"a": torch.zeros(2), "b": [torch.zeros(1)]}, torch.arange(2), torch.zeros(2), {"t": torch.zeros(2)}
    )
    moved = batch.to("meta")
    tensors = [moved.x["a"], moved.x["b"][0], moved.index, moved.label, moved.meta["t"]]
    assert all(t.device.type == "meta" for t in tensors)
    assert len(batch) == 2
