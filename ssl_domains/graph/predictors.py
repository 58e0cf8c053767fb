"""From visible nodes to hidden ones: GraphMAE's decoder and its ablations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask
from ssl_domains.graph.layers import KINDS, MessagePassing, activation, edges_of


class GraphPredictor(nn.Module):
    """``p(encoded, mask, x) -> [M, output_width]``: bias-free linear map, re-mask, one
    message-passing layer on the undropped graph, hidden nodes picked.

    Re-masking sets the rows of hidden nodes to zero AFTER the linear map, so the layer must
    rebuild a node from its neighbours (GraphMAE, KDD 2022, section 3.2; the paper writes a
    [DMASK] token, the authors' code has zeros). The last layer has no norm, activation or
    residual. A ``linear`` or ``mlp`` predictor sees no neighbours and is never re-masked.

    Args:
        width: D of the encoder's tokens.
        output_width: P of the prediction.
        kind: gat, gin, gcn, sage, rgcn, linear or mlp.
        remask: False leaves out the re-masking (the paper's ablation).
        heads: attention heads of a GAT predictor. Default 1 (GraphMAE).
        hidden_width: of the mlp; None: ``width``.
        dropout: on the layer's input. Default 0.2 (GraphMAE's feature dropout, the decoder included).
        attention_dropout: Default 0.1 (GraphMAE).
        edge_width: width of ``edge_attr`` to read, 0: none.
        weighted: the graph has edge weights.
        relations: number of edge types (rgcn).
        bases: of an rgcn layer, see :class:`~ssl_domains.graph.layers.MessagePassing`.
    """

    def __init__(
        self,
        width: int,
        output_width: int,
        *,
        kind: str = "gat",
        remask: bool = True,
        heads: int = 1,
        hidden_width: int | None = None,
        dropout: float = 0.2,
        attention_dropout: float = 0.1,
        edge_width: int = 0,
        weighted: bool = False,
        relations: int = 0,
        bases: int = 0,
    ) -> None:
        super().__init__()
        if kind not in (*KINDS, "linear", "mlp"):
            raise ValueError(
                f"method.predictor.kind must be one of {', '.join(KINDS)}, linear, mlp; got {kind!r}"
            )
        self.kind, self.remask = kind, remask and kind in KINDS
        self.project = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        if kind in KINDS:
            self.decode: nn.Module = MessagePassing(
                kind,
                width,
                output_width,
                heads=heads,
                attention_dropout=attention_dropout,
                edge_width=edge_width,
                weighted=weighted,
                relations=relations,
                bases=bases,
            )
        elif kind == "linear":
            self.decode = nn.Linear(width, output_width)
        else:
            inner = hidden_width or width
            self.decode = nn.Sequential(
                nn.Linear(width, inner), activation("prelu"), nn.Dropout(0.2), nn.Linear(inner, output_width)
            )

    def forward(self, encoded: Encoded, mask: Mask, x: Any) -> Tensor:
        """``[M, output_width]`` for the hidden nodes in order."""
        h = self.project(encoded.tokens.values)
        if self.kind not in KINDS:
            return self.decode(h[mask.hidden])
        if self.remask:
            h = torch.where(mask.hidden[:, None], torch.zeros_like(h), h)
        out = self.decode(self.dropout(h), *edges_of(x))
        return out[mask.hidden]
