"""Encoders: stages and decoders, masks, and weights that go back into MONAI's own networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.core.random import Draw
from ssl_domains.medical3d.encoders.base import patches as cut
from ssl_domains.medical3d.encoders.base import unpatch

SMALL = {
    "monai_unet": {"features": [4, 4, 8], "decoder": True},
    "monai_resnet": {"depth": 10, "width": 4, "decoder": True},
    "volume_vit": {"patch": 4, "width": 24, "depth": 2, "heads": 2},
    "monai_vit": {"patch": 4, "width": 24, "depth": 2, "heads": 2},
    "slice_stack": {"depth": 10, "width": 4},
}


def make(name, spec, **options):
    torch.manual_seed(0)
    return registry.get("encoder", name)(spec, **(SMALL.get(name, {}) | options))


@pytest.mark.parametrize("name", list(SMALL))
def test_shapes_masks_and_predictors(name, patches):
    encoder, x = make(name, patches.spec), patches.fetch([0, 1, 2]).x
    layout = encoder.layout(x)
    out = encoder(x)
    assert out.pooled.shape == (3, encoder.pooled_width)
    assert out.tokens.values.shape == (3, layout.n_tokens, encoder.width)
    assert encoder.targets(x).values.shape == (3, layout.n_tokens, encoder.target_width)
    if layout.n_tokens < 2:
        return
    mask = registry.get("mask", "random")(0.5)(layout, Draw(0, 0, torch.arange(3)))
    masked = encoder(x, mask)
    options = {"width": 16, "depth": 1, "heads": 2} if "vit" in name else {}
    predicted = encoder.predictor(encoder.target_width, **options)(masked, mask, x)
    assert predicted.shape == encoder.targets(x).select(mask).shape
    encoder.eval()
    changed = x.clone()
    shape = [s // g for s, g in zip(x.shape[2:], layout.shape, strict=False)]
    if len(layout.shape) == 3:  # what is hidden does not reach the visible tokens
        grid = unpatch(mask.hidden[..., None].repeat(1, 1, shape[0] ** 3).float(), layout.shape, shape)
        changed = torch.where(grid.bool(), torch.full_like(x, 9.0), x)
    else:
        changed[:, :, :][mask.hidden.view(3, 1, -1).expand(3, 1, -1)] = 9.0
    assert torch.allclose(encoder(changed, mask).pooled, encoder(x, mask).pooled, atol=1e-4)


@pytest.mark.parametrize("name", ["monai_unet", "monai_resnet"])
def test_stages_and_decoder(name, patches):
    encoder, x = make(name, patches.spec), patches.fetch([0, 1]).x
    voxels = encoder.prepare(x)
    maps = encoder.stages(voxels)
    assert tuple(m.shape[1] for m in maps) == encoder.stage_widths
    assert [16 // m.shape[2] for m in maps] == list(encoder.strides)
    decoded = encoder.decode(voxels, maps)
    assert tuple(m.shape[1] for m in decoded) == encoder.decoder_widths
    assert decoded[-1].shape[2:] == x.shape[2:]
    assert len(encoder.decode(voxels, maps, 1)) == 1
    assert torch.allclose(encoder.decode(voxels, maps, 1)[0], decoded[0], atol=1e-5)
    assert len(encoder.decoder_modules()) == len(decoded)
    bare = make(name, patches.spec, decoder=False)
    assert not bare.has_decoder
    with pytest.raises(ValueError, match=r"set encoder.decoder=true"):
        bare.decode(voxels, maps)


def test_weights_load_into_basic_unet(patches):
    """Encoder, decoder and the last layer: MONAI's network with these weights gives the same map."""
    from monai.networks.nets.basic_unet import BasicUNet

    features = (4, 4, 8, 8, 16)
    wide = registry.get("encoder", "monai_unet")
    spec = replace(patches.spec, size=(32, 32, 32))
    torch.manual_seed(0)
    encoder = wide(spec, features=features, decoder=True).eval()
    net = BasicUNet(3, 1, 2, features=(*features, 4)).eval()
    net.load_state_dict(encoder.monai_state())  # strict: every name is there
    x = torch.rand(1, 1, 32, 32, 32)
    voxels = encoder.prepare(x)
    decoded = encoder.decode(voxels, encoder.stages(voxels))[-1]
    assert torch.allclose(net(voxels), encoder.body.final_conv(decoded), atol=1e-5)
    without = wide(spec, features=features).monai_state()
    missing, unexpected = net.load_state_dict(without, strict=False)
    assert not unexpected
    assert all(key.startswith(("upcat", "final_conv")) for key in missing)


def test_weights_of_monai_load_from_a_file(patches, tmp_path):
    from monai.networks.nets.vit import ViT

    torch.manual_seed(3)
    vit = ViT(1, (16, 16, 16), 4, 24, 96, 2, 2).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    encoder = make("monai_vit", patches.spec, weights=str(tmp_path / "vit.pt")).eval()
    x = patches.fetch([0]).x
    assert torch.allclose(vit(encoder.prepare(x))[0], encoder(x).tokens.values, atol=1e-5)
    with pytest.raises(UserError, match="does not fit this encoder"):
        make("monai_unet", patches.spec, weights=str(tmp_path / "vit.pt"))


def test_weights_load_into_resnet_and_vit(patches):
    from monai.networks.nets.resnet import ResNet
    from monai.networks.nets.vit import ViT

    x = patches.fetch([0, 1]).x
    encoder = make("monai_resnet", patches.spec, decoder=False).eval()
    net = ResNet(
        "basic", [1, 1, 1, 1], [4, 8, 16, 32], n_input_channels=1, num_classes=3, bias_downsample=False
    ).eval()
    missing, unexpected = net.load_state_dict(encoder.monai_state(), strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {"fc"}
    net.fc = torch.nn.Identity()
    assert torch.allclose(net(encoder.prepare(x)), encoder(x).pooled, atol=1e-5)

    encoder = make("monai_vit", patches.spec).eval()
    vit = ViT(1, (16, 16, 16), 4, 24, 96, 2, 2).eval()
    vit.load_state_dict(encoder.monai_state())
    assert torch.allclose(vit(encoder.prepare(x))[0], encoder(x).tokens.values, atol=1e-5)


UNETR_SIZES = {"width": 24, "heads": 2, "ffn": 48}


@pytest.fixture
def blocks32(patches):
    """The spec of patches of 32 voxels: eight cubes of 16."""
    return replace(patches.spec, size=(32, 32, 32))


def test_weights_load_into_unetr(blocks32):
    """Twelve blocks: MONAI's network with these weights gives the same map; also from a pretrained ViT."""
    from monai.networks.nets.unetr import UNETR

    torch.manual_seed(0)
    vit = registry.get("encoder", "monai_vit")(blocks32, depth=12, **UNETR_SIZES)
    encoder = vit.with_decoder(feature_size=4).eval()
    net = UNETR(1, 2, (32, 32, 32), 4, 24, 48, 2).eval()
    net.load_state_dict(encoder.monai_state())  # strict: every name is there
    voxels = encoder.prepare(torch.rand(2, 1, 32, 32, 32))
    with torch.no_grad():
        decoded = encoder.decode(voxels, encoder.stages(voxels))
        assert torch.allclose(net(voxels), encoder.body.out(decoded[-1]), atol=1e-5)
        assert torch.equal(encoder(voxels).pooled, vit.eval()(voxels).pooled)
    assert tuple(m.shape[1] for m in decoded) == encoder.decoder_widths
    assert [m.shape[2] for m in decoded] == [4, 8, 16, 32]
    fresh = UNETR(1, 2, (32, 32, 32), 4, 24, 48, 2).eval()
    fresh.vit.load_state_dict(vit.monai_state())  # strict
    with torch.no_grad():
        assert torch.allclose(fresh.vit(voxels)[0], vit(voxels * vit.std + vit.mean).tokens.values, atol=1e-4)


def test_unetr_of_other_depths_and_its_weights(blocks32, tmp_path):
    unetr = registry.get("encoder", "monai_unetr")
    vit = registry.get("encoder", "monai_vit")(blocks32, depth=4, **UNETR_SIZES)
    torch.save(vit.monai_state(), tmp_path / "vit.pt")
    one = unetr(blocks32, depth=4, feature_size=4, weights=str(tmp_path / "vit.pt"), **UNETR_SIZES)
    assert torch.equal(one.vit.norm.weight, vit.body.norm.weight)
    assert torch.equal(one.vit.blocks[3].attn.qkv.weight, vit.body.blocks[3].attn.qkv.weight)
    torch.save(one.monai_state(), tmp_path / "unetr.pt")
    two = unetr(blocks32, depth=4, feature_size=4, weights=str(tmp_path / "unetr.pt"), **UNETR_SIZES)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert len(two.decoder_modules()) == len(two.decoder_widths)
    with pytest.raises(ValueError, match=r"wants encoder.patch=16 and encoder.depth of 4"):
        unetr(blocks32, depth=3, **UNETR_SIZES)


@pytest.mark.slow
def test_weights_load_into_swin_unetr(patches):
    from monai.networks.nets.swin_unetr import SwinUNETR

    spec = replace(patches.spec, size=(64, 64, 64))
    encoder = make("monai_swin_unetr", spec, feature_size=12, decoder=True).eval()
    net = SwinUNETR(1, 2, feature_size=12).eval()
    net.load_state_dict(encoder.monai_state())
    voxels = encoder.prepare(torch.rand(1, 1, 64, 64, 64))
    with torch.no_grad():
        decoded = encoder.decode(voxels, encoder.stages(voxels))
        assert torch.allclose(net(voxels), encoder.body.out(decoded[-1]), atol=1e-4)
    assert tuple(m.shape[1] for m in decoded) == encoder.decoder_widths


def test_cutting_is_undone():
    x = torch.randn(2, 3, 8, 6, 4)
    parts = cut(x, (2, 3, 2))
    assert parts.shape == (2, 4 * 2 * 2, 12 * 3)
    assert torch.equal(unpatch(parts, (4, 2, 2), (2, 3, 2)), x)
    assert torch.equal(parts[0, 0].view(2, 3, 2, 3), x[0, :, :2, :3, :2].permute(1, 2, 3, 0))


def test_half_precision(patches):
    x = patches.fetch([0, 1]).x
    for name in ("monai_unet", "volume_vit"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(make(name, patches.spec)(x).pooled.float()).all()


def test_sizes_that_do_not_fit_say_what_does(patches, slices):
    with pytest.raises(ValueError, match=r"multiples of 32 from 64 on.*use data.patch=\[64, 64, 64\]"):
        make("monai_swin_unetr", patches.spec, feature_size=12, decoder=True)
    with pytest.raises(ValueError, match=r"encoder.patch \[5, 5, 5\] does not divide"):
        make("volume_vit", patches.spec, patch=5)
    with pytest.raises(ValueError, match="the data are slices"):
        make("slice_stack", slices.spec)
    with pytest.raises(ValueError, match=r"the encoder wants \[B, 1, D, H, W\]"):
        make("monai_unet", patches.spec)(torch.zeros(1, 2, 16, 16, 16))
