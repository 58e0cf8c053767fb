"""What probes that train a head on hidden states share: states epoch after epoch, and the training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.evaluation.probes import _positive
from ssl_domains.evaluation.protocols import ProtocolProbe
from ssl_domains.evaluation.token_states import Reader, States, check_layer, picked

KEPT = 2**30
"""Bytes of states that are kept between epochs; more are made anew in each."""


class Batches:
    """States of some rows, epoch after epoch; kept in memory (as float16) while they are few.

    Args:
        reader: gives them.
        rows: ``[n]``.
        layer: ``weighted``: all layers, or the number of one; plain frames are one layer in any case.
    """

    def __init__(self, reader: Reader, rows: np.ndarray, layer: str | int = "weighted") -> None:
        self.reader, self.rows = reader, rows
        self.layer = "weighted" if reader.encoder is None else layer
        self._kept: list[States] | None = []

    def __iter__(self) -> Any:
        if self._kept:
            order = torch.randperm(len(self._kept)).tolist()
            for i in order:
                found = self._kept[i]
                yield self.rows[found.at], found.layers.float(), found.lengths
            return
        size, kept = 0, []
        for states in self.reader.read(self.rows):
            layers = picked(states.layers, self.layer)
            size += 2 * layers.numel()
            if size <= KEPT:
                kept.append(States(states.at, layers.half(), states.lengths))
            yield self.rows[states.at], layers, states.lengths
        if size <= KEPT:
            self._kept = kept


class StateProbe(ProtocolProbe):
    """Base of probes that train a head on states."""

    tunes_encoder = True
    draws = "initialisations of the head"

    def __init__(
        self,
        lr: float,
        epochs: int,
        width: int,
        normalise: bool,
        max_rows: int,
        patience: int,
        layer: str | int,
    ) -> None:
        for name, value in (("lr", lr), ("epochs", epochs), ("width", width), ("patience", patience)):
            _positive(name, value)
        self.lr, self.epochs, self.width, self.normalise = lr, epochs, width, normalise
        self.max_rows, self.patience, self.layer = max_rows, patience, check_layer(layer)

    def parts_of(self, reader: Reader, rows: dict[str, np.ndarray]) -> dict[str, Batches]:
        """The states of each split."""
        return {name: Batches(reader, found, self.layer) for name, found in rows.items()}

    def fit(
        self,
        net: nn.Module,
        train: Batches,
        loss_of: Callable[[nn.Module, np.ndarray, Tensor, Tensor], Tensor],
        valid: Callable[[nn.Module], float],
    ) -> nn.Module:
        """The net of the best epoch: Adam, gradients clipped at 1 (SUPERB's), stopped after ``patience``
        epochs without a better ``valid`` (higher is better)."""
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        best, kept, waited = -np.inf, copy.deepcopy(net.state_dict()), 0
        for _ in range(self.epochs):
            net.train()
            for rows, states, lengths in train:
                with torch.enable_grad():
                    loss = loss_of(net, rows, states, lengths)
                    optimizer.zero_grad()
                    loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            net.eval()
            with torch.no_grad():
                found = valid(net)
            waited += 1
            if found > best:
                best, kept, waited = found, copy.deepcopy(net.state_dict()), 0
            if waited >= self.patience:
                break
        net.load_state_dict(kept)
        return net.eval()
