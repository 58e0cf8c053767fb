"""What the report shows of an image encoder."""

import numpy as np
import torch

from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.image.domain import ImageDomain
from ssl_domains.image.encoders import ImageResNet
from ssl_domains.image.vit import ImageViT

from .conftest import pattern


def source(n=20):
    return ImageDomain().open(np.stack([pattern(16, 16, i) for i in range(n)]))


def state(module):
    return [(m.training, [p.clone() for p in m.parameters(recurse=False)]) for m in module.modules()]


def test_attention_and_reconstruction_and_nothing_is_changed():
    data = source()
    encoder = ImageViT(data.spec, patch=4, width=16, depth=2, heads=2)
    method = MaskedReconstruction(
        encoder, MaskedMSE(True), RandomMask(0.5), {"width": 16, "depth": 1, "heads": 2}
    )
    before = state(method)
    found = ImageDomain().figures(encoder, data, method)
    assert [figure.title for figure in found] == ["Attention", "Reconstructions"]
    n = len(data.splits["test"])
    for figure, rows in zip(found, (2, 3), strict=True):
        assert figure.pixels.dtype == np.uint8
        assert figure.pixels.shape == (rows * 120, n * 120, 3)  # 16 pixels enlarged to 112, and a margin
    shown = found[1].pixels[4:116, 4:116]
    first = data.picture(int(data.splits["test"][0]))
    np.testing.assert_allclose(shown[::7, ::7].astype(int), first.astype(int), atol=1)
    for (mode, old), (now, new) in zip(before, state(method), strict=True):
        assert mode == now
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


def test_convolutional_encoders_have_no_attention():
    data = source()
    assert ImageDomain().figures(ImageResNet(data.spec, 10, 4), data) == []
    tokens = ImageViT(data.spec, patch=4, width=16, depth=1, heads=2, class_token=False, pooling="mean")
    assert ImageDomain().figures(tokens, data) == []
