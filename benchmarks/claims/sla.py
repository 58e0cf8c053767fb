"""Self-supervised label augmentation against the plain classifier with few labels (sheet 22)."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.claims._images import ENCODER, fashion, fit, small_encoder
from benchmarks.claims.common import Result, judge
from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.label_augmentation import Inference, LabelAugmentation
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.random import Draw
from ssl_domains.image.transformations import ImageTransformations

SHOTS, TEST, BATCH, STEPS = 20, 2000, 40, 250
PLAIN = "plain classifier, four times the steps"


def labelled(source: Source, seed: int) -> None:
    """The training split becomes ``SHOTS`` rows of each class, drawn by the seed."""
    rng = np.random.default_rng(seed)
    rows, labels = source.splits["pool"], np.asarray(source.labels)
    order = rng.permutation(rows)
    chosen = [order[labels[order] == c][:SHOTS] for c in np.unique(labels[rows])]
    source.splits["train"] = np.sort(np.concatenate(chosen))


@torch.no_grad()
def accuracy(method: LabelAugmentation, source: Source, kind: str, inference: Inference) -> float:
    """On the test rows, all copies of the plain image."""
    method.eval()
    views = ImageTransformations(source.spec, kind, shuffled=False, augment=False)
    hits = 0
    for rows in np.array_split(source.splits["test"], 4):
        batch = source.fetch(rows)
        guess = method.predict(views(batch, Draw(0, 0, batch.index)), inference).argmax(dim=1)
        hits += int((guess == batch.label).sum())
    return hits / len(source.splits["test"])


def train(
    source: Source, seed: int, kind: str = "rotation", times: int = 1, **options: object
) -> LabelAugmentation:
    """One classifier."""
    encoder = small_encoder(source, seed)
    views = ImageTransformations(source.spec, kind)
    method = LabelAugmentation(encoder, CrossEntropy(), views, source.spec, 10, **options)  # type: ignore[arg-type]
    fit(method, source, seed, steps=STEPS * times, batch_size=BATCH)
    return method


def one_run(source: Source, seed: int) -> dict[str, float]:
    """All conditions on the same labelled rows."""
    labelled(source, seed)
    joint = train(source, seed, self_distillation=True)
    kinds: dict[str, Inference] = {
        "label augmentation, one copy": "single",
        "label augmentation, aggregated": "aggregated",
        "label augmentation, one-pass student": "distilled",
    }
    found = {name: accuracy(joint, source, "rotation", inference) for name, inference in kinds.items()}
    found["plain classifier, the same steps"] = accuracy(
        train(source, seed, "none"), source, "none", "single"
    )
    found[PLAIN] = accuracy(train(source, seed, "none", times=4), source, "none", "single")
    for task, name in (
        ("invariant", "all rotations the same class"),
        ("multi_task", "class and rotation apart"),
    ):
        found[name] = accuracy(train(source, seed, task=task), source, "rotation", "single")
    return found


def run(seeds: int) -> Result:
    """Seeds draw the labelled rows, too."""
    source = fashion(4000, TEST)
    source.splits["pool"] = source.splits["train"]
    runs = [one_run(source, seed) for seed in range(seeds)]
    values = {name: [r[name] for r in runs] for name in runs[0]}
    ours = values["label augmentation, aggregated"]
    others = {name: judge(ours, v) for name, v in values.items() if not name.startswith("label")}
    return Result(
        name="sla",
        paper="Self-supervised Label Augmentation (ICML 2020)",
        claim="Trained on few labels, the aggregated classifier of class and rotation beats the plain classifier.",
        setting=f"{SHOTS} labelled images a class of Fashion-MNIST, {ENCODER} from scratch, crop and flip, batch {BATCH}, {STEPS} "
        f"steps of four copies; the plain classifier with as many steps and with as many copies; {TEST:,} test images.",
        metric="test accuracy",
        values=values,
        verdict=others[PLAIN],
        notes="Aggregated label augmentation against the others: "
        + "; ".join(f"{n}: {v}" for n, v in others.items())
        + ".",
    )
