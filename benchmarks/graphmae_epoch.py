"""A full-batch epoch of GraphMAE: this package against the same model written directly in PyG.

    python benchmarks/graphmae_epoch.py --nodes 3000 --width 256

Both have the same layers (checked: as many parameters, and the same loss for the same mask and weights)
and take one Adam step an epoch. ``package`` is what a run does: fetch the batch, draw the mask, forward,
backward, step. ``direct`` holds its tensors ready and draws with torch.randperm. Times are the best of
interleaved rounds; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GATConv

from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.regression import ScaledCosineError
from ssl_domains.core.random import Draw
from ssl_domains.graph.data import GraphSource
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GAT


class Direct(nn.Module):
    """GraphMAE with a GAT of two layers, as one would write it for one data set."""

    def __init__(self, features: int, width: int, heads: int) -> None:
        super().__init__()
        part = width // heads
        self.first = GATConv(features, part, heads, dropout=0.1, add_self_loops=False)
        self.second = GATConv(width, part, heads, dropout=0.1, add_self_loops=False)
        self.acts = nn.ModuleList([nn.PReLU(), nn.PReLU()])
        self.token = nn.Parameter(torch.zeros(1, features))
        self.project = nn.Linear(width, width, bias=False)
        self.decoder = GATConv(width, features, 1, dropout=0.1, add_self_loops=False)

    def forward(self, x: Tensor, edges: Tensor, hidden: Tensor) -> Tensor:
        h = torch.where(hidden[:, None], self.token, x)
        h = self.acts[0](self.first(F.dropout(h, 0.2, self.training), edges))
        h = self.acts[1](self.second(F.dropout(h, 0.2, self.training), edges))
        h = self.project(h).masked_fill(hidden[:, None], 0.0)
        z = self.decoder(F.dropout(h, 0.2, self.training), edges)[hidden]
        return (1 - F.cosine_similarity(z, x[hidden], dim=1)).pow(3).mean()


def sources(nodes: int, features: int) -> GraphSource:
    """A random graph with ten edges a node and sparse features."""
    rng = np.random.default_rng(0)
    edges = torch.from_numpy(rng.integers(0, nodes, (2, 5 * nodes)))
    x = torch.from_numpy((rng.random((nodes, features)) < 0.05).astype(np.float32))
    return GraphDomain().open(Data(x=x, edge_index=edges))


def same_loss(method: MaskedReconstruction, direct: Direct, source: GraphSource) -> None:
    """Copies the weights over and compares the losses of one mask, without dropout."""
    pairs = dict(zip(direct.parameters(), _in_order(method), strict=True))
    with torch.no_grad():
        for mine, theirs in pairs.items():
            mine.copy_(theirs)
    method.eval()
    direct.eval()
    batch = source.fetch(np.arange(len(source)))
    draw = Draw(0, 0, batch.index)
    hidden = method.masker(method.encoder.layout(batch.x), draw.fork("mask")).hidden
    torch.testing.assert_close(method(batch, draw).loss, direct(batch.x.x, batch.x.edge_index, hidden))
    method.train()
    direct.train()


def _in_order(method: MaskedReconstruction) -> list[nn.Parameter]:
    """The parameters in the order of :class:`Direct`'s."""
    encoder, predictor = method.encoder, method.predictor
    layers = list(encoder.layers)
    found = [encoder.mask_token]
    for layer in layers:
        found += list(layer.conv.parameters())
    for layer in layers:
        found += list(layer.activation.parameters())
    return [*found, *predictor.project.parameters(), *predictor.decode.parameters()]


def epochs(
    method: MaskedReconstruction, direct: Direct, source: GraphSource
) -> dict[str, Callable[[], None]]:
    """One epoch of each form."""
    ours, theirs = (torch.optim.Adam(m.parameters(), lr=1e-3) for m in (method, direct))
    rows, step = np.arange(len(source)), iter(range(1 << 30))
    ready = source.fetch(rows).x

    def package() -> None:
        batch = source.fetch(rows)
        loss = method(batch, Draw(0, next(step), batch.index)).loss
        ours.zero_grad(set_to_none=True)
        loss.backward()
        ours.step()

    def plain() -> None:
        hidden = torch.zeros(len(rows), dtype=torch.bool)
        hidden[torch.randperm(len(rows))[: len(rows) // 2]] = True
        loss = direct(ready.x, ready.edge_index, hidden)
        theirs.zero_grad(set_to_none=True)
        loss.backward()
        theirs.step()

    return {"package": package, "direct": plain}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--features", type=int, default=500)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for nodes in options.nodes:
        source = sources(nodes, options.features)
        torch.manual_seed(0)
        encoder = GAT(source.spec, options.width, heads=4)
        method = MaskedReconstruction(encoder, ScaledCosineError(gamma=3), RandomMask(0.5))
        direct = Direct(options.features, options.width, 4)
        same_loss(method, direct, source)
        best = dict.fromkeys(("package", "direct"), float("inf"))
        for _ in range(options.rounds):
            for name, epoch in epochs(method, direct, source).items():
                start = time.perf_counter()
                epoch()
                best[name] = min(best[name], time.perf_counter() - start)
        print(
            json.dumps({"nodes": nodes, "ratio": round(best["package"] / best["direct"], 3), **best}),
            flush=True,
        )


if __name__ == "__main__":
    main()
