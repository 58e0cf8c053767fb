"""What a graph looks like once it is read: widths, level, fitted columns. Travels with the encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["numeric", "categorical", "text"]
_NAMES = ("edge_columns", "relation_names", "relations", "node_types", "classes")


@dataclass(frozen=True)
class NodeColumn:
    """One column of a node table, with what was fitted on the train split.

    Attributes:
        name: name in the table.
        kind: ``numeric`` (standardised, 1 feature), ``categorical`` (one-hot) or ``text``
            (bag of words, TF-IDF).
        mean: mean of a numeric column.
        std: standard deviation of a numeric column, positive.
        words: categories, or the vocabulary of a text column.
        idf: inverse document frequency of each word of a text column.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    std: float = 1.0
    words: tuple[str, ...] = ()
    idf: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Number of features that the column becomes."""
        return 1 if self.kind == "numeric" else len(self.words)


@dataclass(frozen=True)
class GraphSpec:
    """Frozen description of a graph data set; encoders and views are built from it.

    Attributes:
        features: width F of the node features after encoding.
        level: ``node``: samples are the nodes of one graph; ``graph``: samples are graphs.
        columns: fitted columns of a node table; empty when features came as numbers.
        degree_cap: with no features at all, nodes get their one-hot degree, capped here
            (GraphMAE, appendix: 400); None otherwise.
        directed: False: every edge runs both ways.
        self_loops: True: every node has exactly one self-loop.
        edge_features: width of ``edge_attr``, 0 for none.
        edge_columns: names of the edge features; ``column=category`` for categories.
        edge_scales: (mean, deviation) of the edge features that were standardised, the first ones.
        relation_names: relations of the data; empty: edges have no types.
        relations: all that an encoder tells apart: these, their reverses, the self-loop.
        node_types: names of the node types.
        random_walk: return probabilities among the positional encodings.
        laplacian: Laplacian eigenvectors among them, after the return probabilities.
        weighted: True when edges carry a weight.
        classes: names of the classes, so that new data get the same numbers.
        molecules: True: ``columns`` and ``edge_columns`` are those of atoms and bonds.
        n_nodes: nodes of the data that the spec was fitted on.
        n_edges: directed edges, without self-loops.
        n_graphs: graphs.
    """

    features: int
    level: Literal["node", "graph"] = "node"
    columns: tuple[NodeColumn, ...] = ()
    degree_cap: int | None = None
    directed: bool = False
    self_loops: bool = True
    edge_features: int = 0
    edge_columns: tuple[str, ...] = ()
    edge_scales: tuple[tuple[float, float], ...] = ()
    relation_names: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    node_types: tuple[str, ...] = ()
    random_walk: int = 0
    laplacian: int = 0
    weighted: bool = False
    classes: tuple[str, ...] = field(default=())
    molecules: bool = False
    n_nodes: int = 0
    n_edges: int = 0
    n_graphs: int = 1

    @property
    def positional(self) -> int:
        """Width of the positional encodings ``pe``, 0 for none."""
        return self.random_walk + self.laplacian

    def slices(self) -> dict[str, slice]:
        """Where each node column stands among the features."""
        out, start = {}, 0
        for column in self.columns:
            out[column.name] = slice(start, start + column.width)
            start += column.width
        return out

    def edge_slices(self) -> dict[str, slice]:
        """Where each edge column stands in ``edge_attr``; ``name=category`` columns stand together."""
        out: dict[str, slice] = {}
        for place, column in enumerate(self.edge_columns):
            name = column.split("=")[0]
            out[name] = slice(out[name].start if name in out else place, place + 1)
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self)
        for key in ("columns", *_NAMES):
            values[key] = list(values[key])
        values["edge_scales"] = [list(pair) for pair in values["edge_scales"]]
        for column in values["columns"]:
            column.update(words=list(column["words"]), idf=list(column["idf"]))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GraphSpec:
        """Reads :meth:`to_dict` back."""
        values = dict(values)
        values["columns"] = tuple(
            NodeColumn(**{**c, "words": tuple(c["words"]), "idf": tuple(c["idf"])}) for c in values["columns"]
        )
        for key in _NAMES:
            values[key] = tuple(values.get(key, ()))
        values["edge_scales"] = tuple((m, d) for m, d in values.get("edge_scales", ()))
        return cls(**values)
