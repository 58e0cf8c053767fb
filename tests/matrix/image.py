"""Images in the matrix of methods and domains."""

from __future__ import annotations

import numpy as np

from ssl_domains.core import registry


def image_source(folder):
    rng = np.random.default_rng(0)
    across = np.linspace(0, 3 * np.pi, 16)
    y = rng.integers(0, 2, 120)
    waves = np.where(y[:, None, None] == 1, np.sin(across)[None, None, :], np.sin(across)[None, :, None])
    x = 128 + 60 * waves + rng.normal(0, 20, (120, 16, 16))
    colour = rng.uniform(0.6, 1.0, (120, 1, 1, 3))
    np.savez(folder / "images.npz", x=(x.clip(0, 255)[..., None] * colour).astype(np.uint8), y=y)
    return registry.load_domain("image")().open(str(folder / "images.npz"))


COMMON = {
    "source": image_source,
    "objective": "masked_mse",
    "latent_mask": "multi_block",
    "pretext": {"views": "image_rotation", "target": "rotation", "objective": "cross_entropy"},
}
KINDS = {
    "image": {
        **COMMON,
        "encoder": ("image_vit", {"patch": 4, "width": 16, "depth": 2, "heads": 2}),
        "predictor": {"width": 16, "depth": 1, "heads": 2},
        "replacing": {"hidden": "replace"},
    },
    "image-conv": {
        **COMMON,
        "encoder": ("image_resnet", {"depth": 10, "width": 8, "stem": "small"}),
        "predictor": {},
    },
}
