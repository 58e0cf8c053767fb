"""Skeletons and sensors in the matrix of methods and domains."""

from __future__ import annotations

from ssl_domains.core import registry


def motion_source(folder):
    data = "generated://motions?clips=80&people=6"
    return registry.load_domain("skeleton")().open(source=data, frames=16, valid=0.2, test=0.2)


def sensor_source(folder):
    return registry.load_domain("skeleton")().open(
        source="generated://wearables?clips=40&people=6", kind="sensors", window=2, valid=0.2, test=0.2
    )


COMMON = {"source": motion_source, "objective": "masked_mse", "latent_mask": "disjoint_subsets"}
COMMON["predictor"] = {"width": 16, "depth": 1, "heads": 2}
KINDS = {
    "skeleton": {**COMMON, "encoder": ("space_time_transformer", {"width": 16, "depth": 1, "heads": 2})},
    "skeleton-gru": {**COMMON, "encoder": ("bigru", {"hidden": 16, "layers": 1})},
    "skeleton-stgcn": {
        **COMMON,
        "encoder": ("stgcn", {"width": 4, "dropout": 0.0}),
        # A convolution over joints gives no states of its tokens by layer.
        "not_on": {"data2vec": "by layer"},
        # It takes 10 to 20 s a method: one of each family here, the others under ``-m slow``.
        "quick": {"simclr", "masked_reconstruction", "data2vec"},
    },
    "skeleton-sensors": {
        **COMMON,
        "source": sensor_source,
        "encoder": ("device_conv", {"widths": [8, 8, 16], "dropout": 0.0}),
    },
}
