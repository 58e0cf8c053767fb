"""Tables in the matrix of methods and domains."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ssl_domains.core import registry


def table_source(folder):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=300)
    columns = {f"n{i}": factor * (i + 1) + rng.normal(size=300) for i in range(5)}
    frame = pd.DataFrame({**columns, "kind": np.where(factor > 0, "a", "b"), "y": factor})
    frame.loc[::7, "n1"] = np.nan
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return registry.load_domain("tabular")().open(source=str(path), label="y")


FT = {"width": 16, "depth": 2, "heads": 2, "ffn": 32, "dropout": 0.0}
SMALL = {
    "source": table_source,
    "predictor": {"width": 16, "depth": 1, "heads": 2, "ffn": 32, "dropout": 0.0},
    "objective": "mixed_columns",
    "latent_mask": "disjoint_subsets",
}
CELLS = {"width": 16, "cell_width": 8, "dropout": 0.0}
KINDS = {
    "tabular": {**SMALL, "encoder": ("ft_transformer", FT)},
    "tabular-mlp": {**SMALL, "encoder": ("mlp", CELLS), "masks_too": {"subtab"}},
    "tabular-resnet": {
        **SMALL,
        "encoder": ("resnet", {**CELLS, "numeric": "piecewise", "n_bins": 8}),
        "masks_too": {"subtab"},
    },
    "tabular-saint": {
        **SMALL,
        "encoder": (
            "saint_transformer",
            {"width": 8, "heads": 2, "ffn": 16, "row_head_width": 8, "dropout": 0.0, "row_dropout": 0.0},
        ),
    },
    "tabular-noise": {
        **SMALL,
        "encoder": ("ft_transformer", {**FT, "depth": 1, "ffn": 16, "numeric": "periodic", "sigma": 0.3}),
        "views": ("column_noise", {"std": 0.3, "flip": 0.3, "both": True}),
    },
    "tabular-cutmix": {
        **SMALL,
        "encoder": ("ft_transformer", {**FT, "depth": 1, "ffn": 16}),
        "views": ("row_cutmix", {"rate": 0.3, "both": True}),
    },
}
METHODS = {  # that only tables have
    "denoising": ("denoising", {"decoder": [16]}, None, {}, "views"),
    "vime": ("denoising", {"mask_weight": 1.0, "reconstruction_weight": 2.0}, None, {}, "views"),
    "subtab": ("subtab", {"n_subsets": 3, "projector": [16], "decoder": [16]}, "nt_xent", {}, "views"),
    "saint": ("saint", {"projector": [16], "decoder": [16]}, "info_nce", {"temperature": 0.7}, "views"),
}
