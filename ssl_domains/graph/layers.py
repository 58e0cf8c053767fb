"""One message-passing layer of each kind, as torch_geometric defines it, and small modules."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["gat", "gin", "gcn", "sage", "rgcn"]
KINDS: tuple[str, ...] = ("gat", "gin", "gcn", "sage", "rgcn")
Edges = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""``edge_index`` [2, E], ``edge_attr`` [E, W], ``edge_weight`` [E], ``edge_type`` [E]."""


def activation(name: str) -> nn.Module:
    """``prelu`` (one slope, starts at 0.25; GraphMAE), ``relu``, ``elu``, ``gelu`` or ``none``."""
    table: dict[str, type[nn.Module]] = {
        "prelu": nn.PReLU,
        "relu": nn.ReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "none": nn.Identity,
    }
    if name not in table:
        raise ValueError(f"encoder.activation must be one of {', '.join(table)}, got {name!r}")
    return table[name]()


def norm(name: str, width: int) -> nn.Module:
    """``batch``, ``layer`` or ``none``."""
    table: dict[str, Any] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}
    if name not in table:
        raise ValueError(f"encoder.norm must be one of {', '.join(table)}, got {name!r}")
    module: nn.Module = table[name](width)
    return module


class MessagePassing(nn.Module):
    """One layer of torch_geometric: GATConv, GINConv (GINEConv with edge features), GCNConv, SAGEConv
    or RGCNConv.

    Self-loops are the source's business (exactly once or none), so no layer adds its own.

    Args:
        kind: gat, gin, gcn, sage or rgcn.
        in_width: D of the input ``[N, D]``.
        width: of the output; for GAT all heads together.
        heads: attention heads, GAT only; must divide ``width``.
        attention_dropout: GAT only.
        edge_width: width of ``edge_attr`` that the layer reads (GAT adds it to the attention,
            GIN to the messages); 0: ignored.
        weighted: GCN multiplies messages by ``edge_weight``.
        inner_norm: norm inside GIN's perceptron, Linear-norm-act-Linear.
        inner_activation: its activation.
        relations: number of edge types, RGCN only.
        bases: matrices that the relations' weights are mixtures of, RGCN only; 0: a matrix each.
    """

    def __init__(
        self,
        kind: str,
        in_width: int,
        width: int,
        *,
        heads: int = 1,
        attention_dropout: float = 0.0,
        edge_width: int = 0,
        weighted: bool = False,
        inner_norm: str = "batch",
        inner_activation: str = "prelu",
        relations: int = 0,
        bases: int = 0,
    ) -> None:
        super().__init__()
        from torch_geometric import nn as geometric

        if kind not in KINDS:
            raise ValueError(f"graph layers are {', '.join(KINDS)}; got {kind!r}")
        self.kind, self.edge_width, self.weighted = kind, edge_width, weighted and kind == "gcn"
        if kind == "gat":
            if width % heads:
                raise ValueError(f"encoder.heads ({heads}) must divide encoder.width ({width})")
            self.conv: nn.Module = geometric.GATConv(
                in_width,
                width // heads,
                heads,
                negative_slope=0.2,
                dropout=attention_dropout,
                add_self_loops=False,
                edge_dim=edge_width or None,
            )
        elif kind == "gin":
            perceptron = nn.Sequential(
                nn.Linear(in_width, width),
                norm(inner_norm, width),
                activation(inner_activation),
                nn.Linear(width, width),
            )
            self.conv = (
                geometric.GINEConv(perceptron, edge_dim=edge_width)
                if edge_width
                else geometric.GINConv(perceptron)
            )
        elif kind == "rgcn":
            if not relations:
                raise ValueError("rgcn needs typed edges: name their column with data.edge_type")
            self.conv = geometric.RGCNConv(in_width, width, relations, num_bases=bases or None)
        elif kind == "gcn":
            self.conv = geometric.GCNConv(in_width, width, add_self_loops=False)
        else:
            self.conv = geometric.SAGEConv(in_width, width)

    def forward(
        self,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        edge_weight: Tensor | None,
        edge_type: Tensor | None = None,
    ) -> Tensor:
        """``[N, in_width] -> [N, width]``."""
        if self.kind == "rgcn":
            return self.conv(h, edge_index, edge_type)
        if self.kind in ("gat", "gin") and self.edge_width:
            return self.conv(h, edge_index, edge_attr=edge_attr)
        if self.weighted:
            return self.conv(h, edge_index, edge_weight=edge_weight)
        return self.conv(h, edge_index)


class Layer(nn.Module):
    """Feature dropout, message passing, optional residual, norm, activation (GraphMAE's order)."""

    def __init__(
        self,
        conv: MessagePassing,
        in_width: int,
        width: int,
        *,
        dropout: float,
        norm_name: str,
        activation_name: str,
        residual: bool,
    ) -> None:
        super().__init__()
        self.conv, self.dropout = conv, nn.Dropout(dropout)
        self.skip: nn.Module | None = None
        if residual:
            self.skip = nn.Identity() if in_width == width else nn.Linear(in_width, width, bias=False)
        self.norm, self.activation = norm(norm_name, width), activation(activation_name)

    def forward(
        self,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        edge_weight: Tensor | None,
        edge_type: Tensor | None = None,
    ) -> Tensor:
        """``[N, in_width] -> [N, width]``."""
        h = self.dropout(h)
        out = self.conv(h, edge_index, edge_attr, edge_weight, edge_type)
        if self.skip is not None:
            out = out + self.skip(h)
        return self.activation(self.norm(out))


def edges_of(x: Any) -> Edges:
    """What the layers read of a batch's edges."""
    return x.edge_index, x.get("edge_attr"), x.get("edge_weight"), x.get("edge_type")


def drop_edges(x: Any, p: float) -> Edges:
    """The edges after dropping each directed one with probability ``p`` (torch's generator, like
    dropout); self-loops always stay, once."""
    edge_index, *values = edges_of(x)
    keep = (torch.rand(edge_index.shape[1], device=edge_index.device) >= p) | (edge_index[0] == edge_index[1])
    attr, weight, kind = (None if v is None else v[keep] for v in values)
    return edge_index[:, keep], attr, weight, kind
