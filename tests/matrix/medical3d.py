"""Volumes and slices in the matrix of methods and domains."""

from __future__ import annotations

from ssl_domains.core import registry

PHANTOMS = "generated://phantoms?patients=12&size=24"


def patch_source(folder):
    return registry.load_domain("medical3d")().open(
        PHANTOMS, label="mask", patch=(12, 12, 12), per_volume=6, valid=0.1, test=0.1
    )


def slice_source(folder):
    return registry.load_domain("medical3d")().open(
        PHANTOMS, axis="axial", size=(32, 32), valid=0.1, test=0.1
    )


COMMON = {
    "source": patch_source,
    "objective": "masked_mse",
    "latent_mask": "disjoint_subsets",
    "pretext": {"views": "volume_rotation", "target": "rotation", "objective": "cross_entropy"},
}
KINDS = {
    "medical3d": {
        **COMMON,
        "encoder": ("volume_vit", {"patch": 4, "width": 12, "depth": 2, "heads": 2}),
        "predictor": {"width": 12, "depth": 1, "heads": 2},
        "replacing": {"hidden": "replace"},
        # Over 5 s each: the others under ``-m slow``.
        "quick": {"simclr", "moco", "masked_reconstruction", "latent_prediction", "swav", "ibot"},
    },
    "medical3d-unet": {
        **COMMON,
        "encoder": ("monai_unet", {"features": [4, 8, 8], "norm": "batch"}),
        "predictor": {},
        # One of each family here, the others under ``-m slow``.
        "quick": {"simclr", "masked_reconstruction"},
    },
    "medical3d-slices": {
        **COMMON,
        "source": slice_source,
        "encoder": ("monai_resnet", {"depth": 10, "width": 4}),
        "predictor": {},
        "quick": {"simclr"},
    },
}
