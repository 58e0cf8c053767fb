"""Every shared method on every domain: a few steps each; the loss falls, only students get gradient.

A new domain adds one entry to ``SOURCES`` and one to ``ENCODERS``; a new method one to ``METHODS``.
"""

from __future__ import annotations

import inspect

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw

STEPS, SETTLE = 36, 4
SMALL = {"projector": [16, 16]}
METHODS = {
    # name: (method, its options, objective, its options, takes)
    "simclr": ("joint_embedding", SMALL, "nt_xent", {}, "views"),
    "barlow_twins": ("joint_embedding", SMALL, "barlow_twins", {}, "views"),
    "vicreg": ("joint_embedding", SMALL, "vicreg", {}, "views"),
    "simsiam": ("joint_embedding", {**SMALL, "predictor": [8]}, "cosine_regression", {}, "views"),
    "moco": ("momentum_contrast", {**SMALL, "queue_size": 96, "momentum": 0.99}, "moco", {}, "views"),
    "halp": (
        "halp",
        {**SMALL, "queue_size": 96, "momentum": 0.99, "positives": 10, "prototypes": 4, "recent": 64},
        "moco",
        {},
        "views",
    ),
    "mochi": (
        "mochi",
        {
            **SMALL,
            "queue_size": 96,
            "momentum": 0.99,
            "hardest": 16,
            "pairs": 8,
            "with_query": 4,
            "from_epoch": 1,
        },
        "moco",
        {},
        "views",
    ),
    "groco": ("joint_embedding", {**SMALL, "projector_last_norm": True}, "groco", {"negatives": 8}, "views"),
    "mixed_barlow_twins": ("mixed_views", SMALL, "mixed_barlow_twins", {}, "views"),
    "cmd": (
        "cross_level_distillation",
        {**SMALL, "prototypes": 12, "momentum": 0.99},
        "cross_level",
        {"width": 12, "teacher_temperature": 0.07},
        "views",
    ),
    "byol": ("self_distillation", {**SMALL, "predictor": [16]}, "cosine_regression", {}, "views"),
    "dino": (
        "self_distillation",
        {**SMALL, "predictor": [], "prototypes": 12, "momentum": 0.99},
        "teacher_cross_entropy",
        {"width": 12, "teacher_temperature": 0.07},
        "views",
    ),
    "masked_reconstruction": ("masked_reconstruction", {}, None, {}, "masker"),
    "latent_prediction": ("latent_prediction", {}, "masked_mse", {}, "masker"),
    "swav": ("cluster_prediction", {**SMALL, "prototypes": 8}, "swav", {}, "views"),
    "deep_graph_infomax": ("local_global", {}, "jensen_shannon", {}, "views"),
    "data2vec": ("data2vec", {"target_layers": 2}, "masked_smooth_l1", {}, "masker"),
    "deep_cluster": ("deep_cluster", {**SMALL, "clusters": [6, 8]}, "cross_entropy", {}, "views"),
    "msn": ("masked_siamese", {**SMALL, "prototypes": 8}, "msn", {}, "both"),
    "ibot": (
        "ibot",
        {"projector": [16, 16], "prototypes": 12, "momentum": 0.99},
        "teacher_cross_entropy",
        {"width": 12, "teacher_temperature": 0.07},
        "both",
    ),
    "pretext_task": ("pretext_task", {}, "binary_cross_entropy", {}, "views"),
}
NOT_ON = {
    # A graph has no mixture with another one; a node has no regions.
    "mixed_barlow_twins": {"graph", "graph-level", "graph-typed"},
    "cmd": {"graph", "graph-typed"},
    # A convolution over joints gives no states of its tokens by layer.
    "data2vec": {"skeleton-stgcn"},
}
# Methods that only tables have.
TABLE_METHODS = {
    "denoising": ("denoising", {"decoder": [16]}, None, {}, "views"),
    "vime": ("denoising", {"mask_weight": 1.0, "reconstruction_weight": 2.0}, None, {}, "views"),
    "subtab": ("subtab", {"n_subsets": 3, "projector": [16], "decoder": [16]}, "nt_xent", {}, "views"),
    "saint": ("saint", {"projector": [16], "decoder": [16]}, "info_nce", {"temperature": 0.7}, "views"),
}


def table_source(folder):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=300)
    columns = {f"n{i}": factor * (i + 1) + rng.normal(size=300) for i in range(5)}
    frame = pd.DataFrame({**columns, "kind": np.where(factor > 0, "a", "b"), "y": factor})
    frame.loc[::7, "n1"] = np.nan
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return registry.load_domain("tabular")().open(source=str(path), label="y")


def node_source(folder):
    rng = np.random.default_rng(0)
    graph = nx.stochastic_block_model([40, 40, 40], 0.1 + 0.2 * np.eye(3) - 0.08, seed=0)
    topics = rng.random((3, 12))
    nodes = pd.DataFrame(
        [[i, *(topics[i // 40] > rng.random(12)).astype(float), f"c{i // 40}"] for i in graph],
        columns=["id", *[f"w{j}" for j in range(12)], "label"],
    )
    edges = pd.DataFrame(graph.edges, columns=["source", "target"])
    nodes.to_csv(folder / "nodes.csv", index=False)
    edges.to_csv(folder / "edges.csv", index=False)
    return registry.load_domain("graph")().open(
        nodes=str(folder / "nodes.csv"), edges=str(folder / "edges.csv"), label="label"
    )


def typed_source(folder):
    rng = np.random.default_rng(0)
    graph = nx.stochastic_block_model([40, 40, 40], 0.1 + 0.2 * np.eye(3) - 0.08, seed=0)
    topics = rng.random((3, 12))
    words = [(topics[i // 40] > rng.random(12)).astype(float) for i in graph]
    nodes = pd.DataFrame(words, columns=[f"w{j}" for j in range(12)])
    nodes = nodes.assign(id=list(graph), kind=np.where(np.arange(120) % 2, "even", "odd"))
    edges = pd.DataFrame(graph.edges, columns=["source", "target"])
    edges["how"] = np.where(edges.source // 40 == edges.target // 40, "near", "far")
    return registry.load_domain("graph")().open(
        nodes=nodes, edges=edges, edge_type="how", node_type="kind", random_walk=4
    )


def graphs_source(folder):
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(60):
        n = 5 + i % 6
        path = torch.arange(n - 1)
        edges = torch.stack([torch.cat([path, path + 1]), torch.cat([path + 1, path])])
        x = torch.rand(n, 6, generator=generator) + (i % 2)
        graphs.append(Data(x=x, edge_index=edges, y=torch.tensor([i % 2])))
    return registry.load_domain("graph")().open(source=graphs)


def image_source(folder):
    rng = np.random.default_rng(0)
    across = np.linspace(0, 3 * np.pi, 16)
    y = rng.integers(0, 2, 120)
    waves = np.where(y[:, None, None] == 1, np.sin(across)[None, None, :], np.sin(across)[None, :, None])
    x = 128 + 60 * waves + rng.normal(0, 20, (120, 16, 16))
    colour = rng.uniform(0.6, 1.0, (120, 1, 1, 3))
    np.savez(folder / "images.npz", x=(x.clip(0, 255)[..., None] * colour).astype(np.uint8), y=y)
    return registry.load_domain("image")().open(str(folder / "images.npz"))


def motion_source(folder):
    data = "generated://motions?clips=80&people=6"
    return registry.load_domain("skeleton")().open(source=data, frames=16, valid=0.2, test=0.2)


def sensor_source(folder):
    return registry.load_domain("skeleton")().open(
        source="generated://wearables?clips=40&people=6", kind="sensors", window=2, valid=0.2, test=0.2
    )


SOURCES = {
    "skeleton": motion_source,
    "skeleton-gru": motion_source,
    "skeleton-stgcn": motion_source,
    "skeleton-sensors": sensor_source,
    "image": image_source,
    "image-conv": image_source,
    "tabular": table_source,
    "tabular-mlp": table_source,
    "tabular-resnet": table_source,
    "tabular-saint": table_source,
    "tabular-noise": table_source,
    "tabular-cutmix": table_source,
    "graph": node_source,
    "graph-level": graphs_source,
    "graph-typed": typed_source,
}
ENCODERS = {
    "skeleton": ("space_time_transformer", {"width": 16, "depth": 1, "heads": 2}),
    "skeleton-gru": ("bigru", {"hidden": 16, "layers": 1}),
    "skeleton-stgcn": ("stgcn", {"width": 4, "dropout": 0.0}),
    "skeleton-sensors": ("device_conv", {"widths": [8, 8, 16], "dropout": 0.0}),
    "image": ("image_vit", {"patch": 4, "width": 16, "depth": 2, "heads": 2}),
    "image-conv": ("image_resnet", {"depth": 10, "width": 8, "stem": "small"}),
    "tabular-mlp": ("mlp", {"width": 16, "cell_width": 8, "dropout": 0.0}),
    "tabular-resnet": (
        "resnet",
        {"width": 16, "cell_width": 8, "dropout": 0.0, "numeric": "piecewise", "n_bins": 8},
    ),
    "tabular-saint": (
        "saint_transformer",
        {"width": 8, "heads": 2, "ffn": 16, "row_head_width": 8, "dropout": 0.0, "row_dropout": 0.0},
    ),
    "tabular-noise": (
        "ft_transformer",
        {"width": 16, "depth": 1, "heads": 2, "ffn": 16, "dropout": 0.0, "numeric": "periodic", "sigma": 0.3},
    ),
    "tabular-cutmix": ("ft_transformer", {"width": 16, "depth": 1, "heads": 2, "ffn": 16, "dropout": 0.0}),
    "tabular": ("ft_transformer", {"width": 16, "depth": 2, "heads": 2, "ffn": 32, "dropout": 0.0}),
    "graph": ("gat", {"width": 16, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0}),
    "graph-typed": ("rgcn", {"width": 16, "dropout": 0.0, "norm": "layer"}),
    "graph-level": ("gin", {"width": 16, "dropout": 0.0}),
}
PREDICTORS = {
    "tabular": {"width": 16, "depth": 1, "heads": 2, "ffn": 32, "dropout": 0.0},
    "graph": {},
    "image": {"width": 16, "depth": 1, "heads": 2},
    "image-conv": {},
    "skeleton": {"width": 16, "depth": 1, "heads": 2},
}
OBJECTIVES = {
    "tabular": "mixed_columns",
    "graph": "scaled_cosine",
    "image": "masked_mse",
    "skeleton": "masked_mse",
}
MASKS = {
    "tabular": "disjoint_subsets",
    "graph": "random",
    "image": "multi_block",
    "skeleton": "disjoint_subsets",
}
VIEWS = {  # others than the domain's first
    "tabular-noise": ("column_noise", {"std": 0.3, "flip": 0.3, "both": True}),
    "tabular-cutmix": ("row_cutmix", {"rate": 0.3, "both": True}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    registry.scan_core()
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in SOURCES.items()}


def make(kind: str, case: str, source):
    torch.manual_seed(0)
    folder = kind.split("-")[0]
    domain = registry.load_domain(folder)
    name, options = ENCODERS[kind]
    if case == "ibot" and name == "image_vit":  # it reads tokens in the places of hidden ones
        options = options | {"hidden": "replace"}
    encoder = registry.get("encoder", name)(source.spec, **options)
    if case == "ibot" and encoder.drops_hidden:
        pytest.skip("iBOT needs an encoder that keeps hidden tokens")
    method, method_options, objective, objective_options, takes = {**METHODS, **TABLE_METHODS}[case]
    cls = registry.get("method", method)
    method_options = dict(method_options)
    if objective is None:
        objective = OBJECTIVES[folder]
        if objective == "mixed_columns":
            width = cls.objective_width(encoder, method_options)
            objective_options = {"spec": source.spec, "width": width}
    if takes in ("masker", "both"):
        mask = MASKS[folder] if case == "latent_prediction" else "random"
        method_options["masker"] = registry.get("mask", mask)()
    if takes == "masker":
        method_options["predictor"] = PREDICTORS.get(kind, PREDICTORS[folder])
    else:
        rotates = folder == "image" and case == "pretext_task"
        default = "image_rotation" if rotates else domain.defaults["views"]
        view, view_options = VIEWS.get(kind, (default, {}))
        cls_views = registry.get("views", view)
        if "spec" in inspect.signature(cls_views).parameters:
            view_options = {**view_options, "spec": source.spec}
        method_options["views"] = cls_views(**view_options)
    if case in ("pretext_task", "subtab", "saint"):
        method_options["spec"] = source.spec
        if folder == "image" and case == "pretext_task":
            method_options["target"], objective = "rotation", "cross_entropy"
    return cls(encoder, registry.get("objective", objective)(**objective_options), **method_options)


REPLACES = ("tabular-mlp", "tabular-resnet")  # encoders whose mask tokens SubTab trains
# Convolutions over joints take 10 to 20 s a method: one of each family here, the others under ``-m slow``.
SLOW = {("skeleton-stgcn", case) for case in METHODS} - {
    ("skeleton-stgcn", case) for case in ("simclr", "masked_reconstruction", "data2vec")
}
CASES = [
    pytest.param(kind, case, marks=[pytest.mark.slow] if (kind, case) in SLOW else [])
    for kind in SOURCES
    for case in ({**METHODS, **TABLE_METHODS} if kind.startswith("tabular") else METHODS)
]


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_method_runs_on_domain(kind, case, sources):
    source = sources[kind]
    method = make(kind, case, source)
    rows = np.asarray(source.splits["train"])[:48] if not source.full_batch else source.splits["train"]
    batch = source.fetch(rows)
    batch.label = None
    method.before_training(source)
    method.before_epoch(source, 1)
    if kind in NOT_ON.get(case, ()):
        with pytest.raises(UserError, match=r"interpolated|tokens a sample|by layer"):
            method(batch, Draw(0, 0, batch.index))
        return
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=3e-3)
    losses = []
    for step in range(STEPS):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
            masked = "mask" in str(METHODS.get(case, "")) or (case == "subtab" and kind in REPLACES)
            allowed = () if masked else ("mask_token",)
            assert not [n for n in without if not n.endswith(allowed)], without
            assert not [n for n, p in method.named_parameters() if "teacher" in n and p.grad is not None]
        optimizer.step()
        method.after_step(Progress(step + 1, STEPS))
        losses.append(float(out.parts.get("kl", out.loss).detach()))
    assert np.isfinite(losses).all()
    settled = losses[SETTLE:]  # by then queues are full and centers have moved
    assert np.mean(settled[-8:]) < np.mean(settled[:8])
    pooled = method.encoder_for_export()(batch.x).pooled
    assert len(pooled) == len(rows)
