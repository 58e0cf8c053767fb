"""Every shared method on every domain: a few steps each; the loss falls, only students get gradient.

A new method adds one entry to ``METHODS``. A new domain adds a file ``tests/matrix/<domain>.py`` with
``KINDS``, the ways its data and encoders come, each a dict of

    source       function of a folder: writes small data there and opens them
    encoder      (name, options), small
    predictor    options of the encoder's predictor
    objective    what reconstructs its hidden tokens
    latent_mask  what hides tokens for latent prediction
    views        (name, options); the domain's first where it is absent
    pretext      {"views", "target", "objective"} of its pretext task; else which tokens were corrupted
    replacing    options with which the encoder keeps hidden tokens, for methods that want them
    not_on       {method: part of the sentence with which it is refused}
    masks_too    methods without a masker that train the encoder's mask token all the same
    quick        methods of the default run; the others are slow tests

and, where it has methods of its own, ``METHODS`` like those here.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import numpy as np
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


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"matrix_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOMAINS = {path.stem: load(path) for path in sorted(Path(__file__).parent.glob("matrix/*.py"))}
KINDS = {kind: (folder, of) for folder, module in DOMAINS.items() for kind, of in module.KINDS.items()}
CASES = [
    pytest.param(kind, case, marks=[pytest.mark.slow] if case not in of.get("quick", {case}) else [])
    for kind, (folder, of) in KINDS.items()
    for case in {**METHODS, **getattr(DOMAINS[folder], "METHODS", {})}
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """``sources(function)``: what it opens, once."""
    registry.scan_core()
    opened = {}

    def source(make):
        if make not in opened:
            opened[make] = make(tmp_path_factory.mktemp(make.__name__))
        return opened[make]

    return source


def make(folder: str, of: dict, case: str, source):
    torch.manual_seed(0)
    domain = registry.load_domain(folder)
    name, options = of["encoder"]
    method, method_options, objective, objective_options, takes = {
        **METHODS,
        **getattr(DOMAINS[folder], "METHODS", {}),
    }[case]
    if case == "ibot":  # it reads tokens in the places of hidden ones
        options = options | of.get("replacing", {})
    encoder = registry.get("encoder", name)(source.spec, **options)
    if case == "ibot" and encoder.drops_hidden:
        pytest.skip("iBOT needs an encoder that keeps hidden tokens")
    cls = registry.get("method", method)
    method_options = dict(method_options)
    if objective is None:
        objective = of["objective"]
        if objective == "mixed_columns":
            width = cls.objective_width(encoder, method_options)
            objective_options = {"spec": source.spec, "width": width}
        elif objective == "masked_tokens":
            objective_options = {"spec": source.spec}
    if takes in ("masker", "both"):
        mask = of["latent_mask"] if case == "latent_prediction" else "random"
        method_options["masker"] = registry.get("mask", mask)()
    if takes == "masker":
        method_options["predictor"] = of["predictor"]
    else:
        view, view_options = of.get("views", (domain.defaults["views"], {}))
        if case == "pretext_task" and "pretext" in of:
            view, objective = of["pretext"]["views"], of["pretext"]["objective"]
            method_options["target"] = of["pretext"]["target"]
        cls_views = registry.get("views", view)
        if "spec" in inspect.signature(cls_views).parameters:
            view_options = {**view_options, "spec": source.spec}
        method_options["views"] = cls_views(**view_options)
    if "spec" in inspect.signature(cls).parameters:
        method_options["spec"] = source.spec
    return cls(encoder, registry.get("objective", objective)(**objective_options), **method_options)


def tried(folder: str, of: dict, case: str, source):
    """What is refused may be refused when it is built, or with the first batch."""
    method = make(folder, of, case, source)
    batch = source.fetch(np.asarray(source.splits["train"])[:48])
    return method(batch, Draw(0, 0, batch.index))


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_method_runs_on_domain(kind, case, sources):
    folder, of = KINDS[kind]
    source = sources(of["source"])
    if case in of.get("not_on", {}):
        with pytest.raises((UserError, ValueError), match=of["not_on"][case]):
            tried(folder, of, case, source)
        return
    method = make(folder, of, case, source)
    rows = np.asarray(source.splits["train"])[:48] if not source.full_batch else source.splits["train"]
    batch = source.fetch(rows)
    batch.label = None
    method.before_training(source)
    method.before_epoch(source, 1)
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=3e-3)
    losses = []
    for step in range(STEPS):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
            masked = "mask" in str(METHODS.get(case, "")) or case in of.get("masks_too", ())
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
