"""Graph encoders on torch_geometric layers: GAT, GIN, GCN, SAGE, RGCN."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Graph
from ssl_domains.core.registry import encoder
from ssl_domains.graph.layers import Layer, MessagePassing, drop_edges, edges_of
from ssl_domains.graph.predictors import GraphPredictor
from ssl_domains.graph.spec import GraphSpec
from ssl_domains.graph.structure import layout, pool, segment


class GraphEncoder(Encoder):
    """Base of the graph encoders: a stack of layers of one kind, then pooling.

    With a mask, nothing is dropped: hidden nodes' features become the learned mask token
    ``[1, F]`` (zeros at first) or, where ``Mask.substitute`` names a donor, the donor's raw
    features. All layers, the last one too, have norm and activation (GraphMAE). Positional
    encodings (``data.random_walk``, ``data.laplacian``) stand beside the features and are never
    hidden; the signs of Laplacian vectors are flipped at random while training.

    Args:
        spec: of the data.
        width: D of each layer's output.
        layers: number of layers.
        heads: attention heads (GAT); together they give ``width``.
        dropout: of features before each layer.
        attention_dropout: of attention weights (GAT).
        norm: batch, layer or none, after each layer.
        activation: prelu, relu, elu, gelu or none.
        residual: adds each layer's input before the norm.
        concat_layers: tokens are the outputs of all layers side by side; width grows.
        pooling: mean, sum or max over a graph's nodes (graph level).
        mask_edge_drop: share of edges dropped in the encoder's graph while training with a
            mask (GraphMAE: 0.5 on arxiv and Reddit); the predictor keeps all edges.
        edge_features: False ignores ``edge_attr`` and ``edge_weight``.
        bases: matrices that relations share (RGCN); 0: each relation has its own.
    """

    drops_hidden: ClassVar[bool] = False
    kind: ClassVar[str] = "gat"

    def __init__(
        self,
        spec: GraphSpec,
        width: int = 512,
        layers: int = 2,
        *,
        heads: int = 1,
        dropout: float = 0.2,
        attention_dropout: float = 0.1,
        norm: str = "none",
        activation: str = "prelu",
        residual: bool = False,
        concat_layers: bool = False,
        pooling: str = "mean",
        mask_edge_drop: float = 0.0,
        edge_features: bool = True,
        bases: int = 0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"encoder.layers must be at least 1, got {layers}")
        if pooling not in ("mean", "sum", "max"):
            raise ValueError(f"encoder.pooling must be mean, sum or max, got {pooling!r}")
        if not 0.0 <= mask_edge_drop < 1.0:
            raise ValueError(f"encoder.mask_edge_drop must lie in [0, 1), got {mask_edge_drop}")
        self.spec, self.pooling, self.mask_edge_drop = spec, pooling, mask_edge_drop
        self.concat_layers = concat_layers
        self.width = width * layers if concat_layers else width
        self.edge_width = spec.edge_features if edge_features else 0
        self.weighted = spec.weighted and edge_features
        self.bases = bases
        self.mask_token = nn.Parameter(torch.zeros(1, spec.features))
        self.layers = nn.ModuleList()
        for i in range(layers):
            in_width = spec.features + spec.positional if i == 0 else width
            conv = MessagePassing(
                self.kind,
                in_width,
                width,
                heads=heads,
                attention_dropout=attention_dropout,
                edge_width=self.edge_width,
                weighted=self.weighted,
                inner_norm=norm,
                inner_activation=activation,
                relations=len(spec.relations),
                bases=bases,
            )
            self.layers.append(
                Layer(
                    conv,
                    in_width,
                    width,
                    dropout=dropout,
                    norm_name=norm,
                    activation_name=activation,
                    residual=residual,
                )
            )

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Encodes a PyG ``Data`` or ``Batch``.

        Args:
            x: with ``x`` ``[N, F]`` and ``edge_index`` ``[2, E]``; see :class:`GraphSource`.
            mask: nodes whose features are hidden.
            layers: also return every layer's output.

        Returns:
            Ragged tokens ``[N, D]``; pooled ``[B, D]``: rows of the batch's nodes, or one row a graph.
        """
        h = x.x if mask is None else self.mask_features(x.x, mask)
        if self.spec.positional:
            h = torch.cat([h, self.positions(x)], dim=1)
        edges = edges_of(x)
        if mask is not None and self.training and self.mask_edge_drop > 0:
            edges = drop_edges(x, self.mask_edge_drop)
        states = []
        for layer in self.layers:
            h = layer(h, *edges)
            states.append(h)
        values = torch.cat(states, dim=1) if self.concat_layers else h
        tokens = Tokens(values, self.layout(x), segment=segment(x))
        return Encoded(tokens, self.pool(values, x), states if layers else None)

    def positions(self, x: Any) -> Tensor:
        """``[N, P]`` positional encodings; in training the Laplacian part with random signs."""
        pe: Tensor = x.pe.to(x.x.dtype)
        if not (self.training and self.spec.laplacian):
            return pe
        signs = torch.randint(2, (pe.shape[1],), device=pe.device) * 2 - 1
        signs[: self.spec.random_walk] = 1
        return pe * signs

    def mask_features(self, features: Tensor, mask: Mask) -> Tensor:
        """``[N, F]`` with hidden rows replaced by the mask token or by donors' raw features."""
        fill = self.mask_token.to(features.dtype).expand_as(features)
        if mask.substitute is not None:
            donors = features[mask.substitute.clamp_min(0)]
            fill = torch.where((mask.substitute >= 0)[:, None], donors, fill)
        return torch.where(mask.hidden[:, None], fill, features)

    def pool(self, values: Tensor, x: Any) -> Tensor:
        """``[B, D]`` one row a sample; of edges (``edge_ends``) the product of their two ends."""
        ends = x.get("edge_ends")
        if ends is not None:
            return values[ends[:, 0]] * values[ends[:, 1]]
        if self.spec.level == "graph":
            return pool(values, x, self.pooling)
        seed_index = x.get("seed_index")
        return values if seed_index is None else values[seed_index]

    def layout(self, x: Any) -> Graph:
        """Nodes and edges of the batch."""
        return layout(x)

    def targets(self, x: Any) -> Tokens:
        """``[N, F]`` the original features; data, so without gradient."""
        return Tokens(x.x, self.layout(x), segment=segment(x))

    @property
    def target_width(self) -> int:
        """F."""
        return self.spec.features

    def predictor(self, output_width: int, **options: Any) -> GraphPredictor:
        """A :class:`GraphPredictor`; options are its keyword arguments. Default kind: the encoder's."""
        known = {"kind": self.kind, "edge_width": self.edge_width, "weighted": self.weighted}
        known |= {"relations": len(self.spec.relations), "bases": self.bases}
        return GraphPredictor(self.width, output_width, **{**known, **options})

    def input_parameters(self) -> list[nn.Parameter]:
        """The mask token: the one parameter at the input (a first layer is message passing already)."""
        return [self.mask_token]


@encoder("gat")
class GAT(GraphEncoder):
    """Graph attention (Velickovic et al., ICLR 2018). Defaults: GraphMAE's on Cora."""

    kind = "gat"

    def __init__(
        self,
        spec: GraphSpec,
        width: int = 512,
        layers: int = 2,
        *,
        heads: int = 4,
        dropout: float = 0.2,
        attention_dropout: float = 0.1,
        norm: str = "none",
        activation: str = "prelu",
        residual: bool = False,
        concat_layers: bool = False,
        pooling: str = "mean",
        mask_edge_drop: float = 0.0,
        edge_features: bool = True,
    ) -> None:
        super().__init__(
            spec,
            width,
            layers,
            heads=heads,
            dropout=dropout,
            attention_dropout=attention_dropout,
            norm=norm,
            activation=activation,
            residual=residual,
            concat_layers=concat_layers,
            pooling=pooling,
            mask_edge_drop=mask_edge_drop,
            edge_features=edge_features,
        )


class _WithoutHeads(GraphEncoder):
    """A stack without attention; the arguments of :class:`GraphEncoder` but the two of attention."""

    def __init__(
        self,
        spec: GraphSpec,
        width: int = 512,
        layers: int = 2,
        *,
        dropout: float = 0.2,
        norm: str = "batch",
        activation: str = "prelu",
        residual: bool = False,
        concat_layers: bool = False,
        pooling: str = "mean",
        mask_edge_drop: float = 0.0,
        edge_features: bool = True,
    ) -> None:
        super().__init__(
            spec,
            width,
            layers,
            dropout=dropout,
            norm=norm,
            activation=activation,
            residual=residual,
            concat_layers=concat_layers,
            pooling=pooling,
            mask_edge_drop=mask_edge_drop,
            edge_features=edge_features,
        )


@encoder("gin")
class GIN(_WithoutHeads):
    """Graph isomorphism network (Xu et al., ICLR 2019), eps fixed at 0. Defaults: GraphMAE's on IMDB-B."""

    kind = "gin"


@encoder("gcn")
class GCN(_WithoutHeads):
    """Graph convolution (Kipf and Welling, ICLR 2017); reads edge weights if there are any."""

    kind = "gcn"


@encoder("sage")
class SAGE(_WithoutHeads):
    """GraphSAGE with mean aggregation (Hamilton et al., NeurIPS 2017)."""

    kind = "sage"


@encoder("rgcn")
class RGCN(GraphEncoder):
    """Relational graph convolution (Schlichtkrull et al., ESWC 2018): a matrix for each type of edge.

    For heterogeneous graphs: relations come from ``data.edge_type`` or from PyG's ``HeteroData``;
    the reverse of each relation and the self-loop are relations of their own. The type of a node is
    one of its features.

    Args:
        bases: matrices that the relations' weights are mixtures of (the paper's basis
            decomposition); 0: each relation has its own matrix.
    """

    kind = "rgcn"

    def __init__(
        self,
        spec: GraphSpec,
        width: int = 512,
        layers: int = 2,
        *,
        bases: int = 0,
        dropout: float = 0.2,
        norm: str = "batch",
        activation: str = "prelu",
        residual: bool = False,
        concat_layers: bool = False,
        pooling: str = "mean",
        mask_edge_drop: float = 0.0,
    ) -> None:
        if not spec.relations:
            raise ValueError("encoder 'rgcn' needs typed edges: name their column with data.edge_type")
        super().__init__(
            spec,
            width,
            layers,
            bases=bases,
            dropout=dropout,
            norm=norm,
            activation=activation,
            residual=residual,
            concat_layers=concat_layers,
            pooling=pooling,
            mask_edge_drop=mask_edge_drop,
        )
