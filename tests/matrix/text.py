"""Texts in the matrix of methods and domains."""

from __future__ import annotations

import numpy as np

from ssl_domains.core import registry

WORDS = {"sea": ["boat", "wave", "sail", "harbour", "storm", "fish", "net", "shore"],
         "wood": ["tree", "leaf", "bark", "moss", "deer", "path", "root", "owl"]}  # fmt: skip


def text_source(folder):
    rng = np.random.default_rng(0)
    lines, labels = ["text,label"], []
    for i in range(160):
        kind = ("sea", "wood")[i % 2]
        words = rng.choice(WORDS[kind] + ["the", "a", "old", "quiet"], size=rng.integers(6, 13))
        labels.append(kind)
        lines.append(f"{' '.join(words)},{kind}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    return registry.load_domain("text")().open(str(folder / "texts.csv"), label="label", length=16)


SMALL = {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0}
KINDS = {
    "text": {
        "source": text_source,
        "encoder": ("text_transformer", SMALL),
        "predictor": {"kind": "grid", "width": 16, "depth": 1, "heads": 2},
        "objective": "masked_tokens",
        "latent_mask": "disjoint_subsets",
    }
}
