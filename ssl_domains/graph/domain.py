"""The graph domain: what a recipe's ``domain: graph`` gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.graph.build import build_source, read_raw
from ssl_domains.graph.chemistry import bond_names
from ssl_domains.graph.data import GraphSource
from ssl_domains.graph.edge_source import EdgeSource
from ssl_domains.graph.limit import limited
from ssl_domains.graph.ondisk import refuse
from ssl_domains.graph.spec import GraphSpec


@domain("graph")
class GraphDomain(Domain):
    """One large graph (samples are nodes) or many small graphs (samples are graphs)."""

    title: ClassVar[str] = (
        "graphs: one large or many small; tables, molecules, PyG, NetworkX, GraphML, import graphs"
    )
    defaults: ClassVar[dict[str, str]] = {"encoder": "gat", "views": "graph_augment", "mask": "random"}

    def open(  # type: ignore[override]
        self,
        source: Any = None,
        nodes: Any = None,
        edges: Any = None,
        *,
        node_id: str | None = None,
        edge_source: str | None = None,
        edge_target: str | None = None,
        label: str | None = None,
        graph: str | None = None,
        split: str | None = None,
        task: str | None = None,
        level: str | None = None,
        text: Sequence[str] = (),
        exclude: Sequence[str] = (),
        columns: dict[str, str] | None = None,
        max_words: int = 1000,
        max_categories: int = 100,
        degree_cap: int = 400,
        valid: float = 0.1,
        test: float = 0.1,
        directed: bool = False,
        self_loops: bool = True,
        neighbors: Sequence[int] | None = None,
        full_batch_limit: int = 200_000,
        edge_time: str | None = None,
        edge_type: str | None = None,
        node_type: str | None = None,
        random_walk: int = 0,
        laplacian: int = 0,
        inductive: bool = False,
        link_valid: float = 0.0,
        link_test: float = 0.0,
        on_disk: bool | None = None,
        smiles: str | None = None,
        atoms: Sequence[str] | None = None,
        bonds: Sequence[str] | None = None,
        strict: bool = False,
        limit: int | None = None,
        seed: int = 0,
    ) -> GraphSource:
        """Opens graph data and fits scalers and vocabularies on the train split.

        Args:
            source: PyG data, a NetworkX graph, a .graphml, .gml or .gexf file, a folder with nodes.csv
                and edges.csv, a DuckDB or SQLite file, molecules (.smi, .sdf, a folder of such files,
                or a table with ``smiles``), ``package://PACKAGE/PATH`` for a file inside an installed
                package, ``import-graph://PACKAGE``, ``code-graph://PACKAGE`` or
                ``pyg://CLASS?root=...``; or give the tables:
            nodes: node table (.csv, .tsv, .parquet, DataFrame); optional beside ``edges``. With a
                database as ``source``: name of a table, or a SELECT.
            edges: edge table; likewise.
            node_id: id column of the node table; usual names are guessed.
            edge_source: source column of the edge table; guessed.
            edge_target: target column of the edge table; guessed.
            label: column, node attribute or SDF property that probes predict; optional.
            graph: column with the graph of each node; samples become graphs. Molecules: their id.
            split: column with train, valid or test; otherwise masks in the data, or random shares.
                ``scaffold``: molecules with the same ring systems stay together.
            task: classification, regression or multilabel; guessed from the label.
            level: node or graph, for PyG data.
            text: columns to read as text.
            exclude: columns to leave out.
            columns: kinds of columns, ``{name: numeric | categorical | text}``; others are guessed.
            max_words: cap of a text column's vocabulary.
            max_categories: cap of a categorical column's one-hot.
            degree_cap: with no features, one-hot degrees are capped here (GraphMAE: 400).
            valid: share of the labelled samples for validation.
            test: share of the labelled samples for the test.
            directed: False adds every edge's reverse.
            self_loops: every node gets exactly one self-loop (GraphMAE); False: none has.
            neighbors: fan-out of each hop, such as [10, 10]; -1 takes all. None: full batch.
            full_batch_limit: graphs with more nodes are sampled with [10, 10].
            edge_time: edge column with times: link prediction holds out the newest edges.
            edge_type: edge column with the relation, for the encoder ``rgcn``.
            node_type: node column with the type; columns that a type lacks may be empty for it.
            random_walk: return probabilities of this many steps as positional encodings
                (Dwivedi et al., ICLR 2022: 16 to 20).
            laplacian: this many Laplacian eigenvectors as positional encodings.
            inductive: pretraining sees neither validation and test nodes nor their edges; for one
                large graph. False: it sees all of them, without labels (transductive).
            link_valid: share of the edges held out to choose by in link prediction.
            link_test: share of the edges held out for link prediction; no batch contains them.
            on_disk: True converts the edge table to files, block by block, and samples from there; None: when
                the table is over an eighth of the free memory.
            smiles: column of ``source`` that holds SMILES; each row becomes a graph (wants RDKit).
            atoms: features of atoms, such as [element, chirality]; None: nine usual ones.
            bonds: features of bonds, such as [type]; None: type, direction, conjugated, ring.
            strict: True refuses molecules that cannot be read; False leaves them out and lists them.
            limit: at most this many samples, evenly spaced, for a quick look; None: all.
            seed: of the random splits and the neighbour sampling.

        Raises:
            DataError: in one sentence, with the file, row or field.
        """
        raw = read_raw(
            source,
            nodes,
            edges,
            node_id=node_id,
            edge_source=edge_source,
            edge_target=edge_target,
            label=label,
            graph=graph,
            split=split,
            level=level,
            edge_time=edge_time,
            edge_type=edge_type,
            node_type=node_type,
            on_disk=on_disk,
            molecules={
                "smiles": smiles,
                "atoms": atoms,
                "bonds": bonds,
                "strict": strict,
                "valid": valid,
                "test": test,
                "limit": limit,
            },
        )
        refuse(raw, limit=limit)
        return build_source(
            limited(raw, limit),
            task=task,
            text=text,
            exclude=exclude,
            columns=columns,
            max_words=max_words,
            max_categories=max_categories,
            degree_cap=degree_cap,
            valid=valid,
            test=test,
            directed=directed,
            self_loops=self_loops,
            neighbors=neighbors,
            full_batch_limit=full_batch_limit,
            inductive=inductive,
            link_valid=link_valid,
            link_test=link_test,
            random_walk=random_walk,
            laplacian=laplacian,
            seed=seed,
        )

    def spec_from_dict(self, values: dict[str, Any]) -> GraphSpec:
        """Reads a spec back from a run directory."""
        return GraphSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: GraphSpec,
        source: Any = None,
        nodes: Any = None,
        edges: Any = None,
        *,
        node_id: str | None = None,
        edge_source: str | None = None,
        edge_target: str | None = None,
        label: str | None = None,
        graph: str | None = None,
        level: str | None = None,
        neighbors: Sequence[int] | None = None,
        full_batch_limit: int = 200_000,
        edge_type: str | None = None,
        node_type: str | None = None,
        on_disk: bool | None = None,
        smiles: str | None = None,
        strict: bool = False,
        seed: int = 0,
        **ignored: Any,
    ) -> Any:
        """New data, encoded with a fitted spec; the label may be missing.

        Args:
            spec: what the encoder was trained with.
            source, nodes, edges, node_id, edge_source, edge_target, label, graph, neighbors,
                full_batch_limit, edge_type, node_type, on_disk, smiles, strict, seed: as
                in :meth:`open`.
            level: as in :meth:`open`, or ``edge``: the samples are the rows of the edge table, and an
                edge's embedding is the elementwise product of those of its ends.
            ignored: keys of the recipe's data section that the spec has settled.

        Raises:
            DataError: the data lacks a column or has other widths than the spec says.
        """
        raw = read_raw(
            source,
            nodes,
            edges,
            node_id=node_id,
            edge_source=edge_source,
            edge_target=edge_target,
            label=label,
            graph=graph,
            level=spec.level if level in (None, "edge") else level,
            edge_type=edge_type,
            node_type=node_type,
            on_disk=on_disk,
            molecules=_as_trained(spec) | {"smiles": smiles, "strict": strict},
        )
        found = build_source(raw, spec, neighbors=neighbors, full_batch_limit=full_batch_limit, seed=seed)
        return EdgeSource(found) if level == "edge" else found

    def inspect(self, **data: Any) -> tuple[dict[str, Any], str]:
        """What was found, and the YAML lines that use it."""
        found = self.open(**data)
        lines = ["domain: graph", "data:"]
        lines += [
            f"  {key}: {value}" for key, value in data.items() if isinstance(value, str | int | float | list)
        ]
        card = found.card()
        card["columns"] = {column.name: f"{column.kind} ({column.width})" for column in found.spec.columns}
        if found.neighbors is not None and "neighbors" not in data:
            lines.append(f"  neighbors: {found.neighbors}")
        encoder = "gat" if found.spec.level == "node" else "gin"
        return card, "\n".join([*lines, f"encoder: {{name: {encoder}}}"]) + "\n"


def _as_trained(spec: GraphSpec) -> dict[str, Any]:
    """Atom and bond features that an encoder of molecules was trained with."""
    if not spec.molecules:
        return {}
    return {"atoms": [column.name for column in spec.columns], "bonds": bond_names(spec.edge_columns)}
