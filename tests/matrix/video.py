"""Clips in the matrix of methods and domains."""

from __future__ import annotations

import numpy as np

from ssl_domains.core import registry


def clip_source(folder):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 96)
    time, across = np.arange(4)[:, None], np.linspace(0, 3 * np.pi, 16)
    phase = np.where(y[:, None, None] == 1, 1, -1) * time[None] * 0.8 + rng.uniform(0, 6, (96, 1, 1))
    waves = np.sin(across[None, None] + phase)[:, :, None]  # [n, T, 1, W]: they run left or right
    x = 128 + 60 * waves + rng.normal(0, 20, (96, 4, 16, 16))
    colour = rng.uniform(0.6, 1.0, (96, 1, 1, 1, 3))
    np.savez(folder / "clips.npz", x=(x.clip(0, 255)[..., None] * colour).astype(np.uint8), y=y)
    return registry.load_domain("video")().open(str(folder / "clips.npz"))


COMMON = {
    "source": clip_source,
    "objective": "masked_mse",
    "latent_mask": "tube_block",
    "pretext": {"views": "clip_order", "target": "order", "objective": "cross_entropy"},
}
KINDS = {
    "video": {
        **COMMON,
        "encoder": (
            "video_vit",
            {"patch": 4, "width": 16, "depth": 2, "heads": 2, "normalize_target": "none"},
        ),
        "predictor": {"width": 16, "depth": 1, "heads": 2},
        "replacing": {"hidden": "replace"},
    },
    "video-conv": {
        **COMMON,
        "encoder": ("slow_resnet", {"depth": 10, "width": 4}),
        "predictor": {},
        "quick": {"simclr", "masked_reconstruction", "pretext_task"},
    },
    "video-frames": {
        **COMMON,
        "encoder": ("frame_encoder", {"model": "test_resnet"}),
        "predictor": {},
        "quick": {"simclr"},
    },
}
