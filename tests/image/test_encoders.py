"""Encoders: masks, sizes, weights of files, half precision, and what they say when something does not fit."""

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.grid_masking import MultiBlockMask
from ssl_domains.core.layout import Grid
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.image.encoders import ImageResNet
from ssl_domains.image.patches import HiddenHead, patches, unpatch
from ssl_domains.image.spec import ImageSpec
from ssl_domains.image.vit import ImageViT, TimmModel

SPEC = ImageSpec((32, 32), 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
TINY = {"patch": 8, "width": 32, "depth": 2, "heads": 2}


def images(n=4, size=32, channels=3):
    return torch.randint(
        0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def draw(n=4):
    return Draw(0, 0, torch.arange(n))


def test_bytes_and_unit_floats_are_the_same_image():
    encoder = ImageViT(SPEC, **TINY).eval()
    x = images()
    torch.testing.assert_close(encoder(x).pooled, encoder(x.float() / 255).pooled)
    prepared = encoder.prepare(x)
    torch.testing.assert_close(prepared[:, 1], (x[:, 1].float() / 255 - 0.5) / 0.25)
    with pytest.raises(ValueError, match=r"wants images \[B, 3, H, W\], got \[4, 1, 32, 32\]"):
        encoder(images(channels=1))


def test_patches_and_back():
    x = torch.rand(2, 3, 12, 8)
    cut = patches(x, (4, 2))
    assert cut.shape == (2, 12, 24)
    torch.testing.assert_close(cut[1, 5].view(4, 2, 3), x[1, :, 4:8, 2:4].permute(1, 2, 0))
    torch.testing.assert_close(unpatch(cut, (3, 4), (4, 2)), x)


def test_vit_is_timms_with_the_class_token():
    encoder = ImageViT(SPEC, **TINY, positions="learned").eval()
    x = images()
    expected = encoder.body.forward_features(encoder.prepare(x))
    found = encoder(x, layers=True)
    torch.testing.assert_close(found.pooled, expected[:, 0])
    torch.testing.assert_close(found.tokens.values, expected[:, 1:])
    assert len(found.layers) == 2
    mean = ImageViT(SPEC, **TINY, pooling="mean", class_token=False)
    assert mean(x).tokens.values.shape == (4, 16, 32)


def test_hidden_patches_cannot_be_seen():
    """The output for the visible patches does not change when the pixels of hidden ones do."""
    encoder = ImageViT(SPEC, **TINY).eval()
    x = images()
    mask = RandomMask(0.75)(encoder.layout(x), draw())
    found = encoder(x, mask)
    assert found.tokens.values.shape == (4, 4, 32)
    hidden = F.interpolate(mask.hidden.view(4, 1, 4, 4).float(), (32, 32)).bool()
    changed = torch.where(hidden, 255 - x, x)
    assert not torch.equal(changed, x)
    torch.testing.assert_close(encoder(changed, mask).tokens.values, found.tokens.values)
    torch.testing.assert_close(encoder(changed, mask).pooled, found.pooled)


@pytest.mark.parametrize(
    "make", [lambda: ImageViT(SPEC, **TINY, hidden="replace"), lambda: ImageResNet(SPEC, 10, 8)]
)
def test_replaced_patches_cannot_be_seen(make):
    encoder = make().eval()
    x = images()
    layout = encoder.layout(x)
    mask = RandomMask(0.5)(layout, draw())
    found = encoder(x, mask)
    assert found.tokens.values.shape[1] == layout.n_tokens
    hidden = F.interpolate(mask.hidden.view(4, 1, *layout.shape).float(), (32, 32)).bool()
    torch.testing.assert_close(encoder(torch.where(hidden, 255 - x, x), mask).pooled, found.pooled)


def test_nothing_hidden_is_no_mask():
    encoder = ImageViT(SPEC, **TINY).eval()
    x = images()
    none = torch.zeros(4, 16, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, Mask(none)).pooled, encoder(x).pooled)


def test_positions_belong_to_the_patches():
    """A context given in another order gives the same tokens in that order."""
    encoder = ImageViT(SPEC, **TINY).eval()
    x = images()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1)).expand(4, 16)
    none = torch.zeros(4, 16, dtype=torch.bool)
    turned = encoder(x, Mask(none, context=order)).tokens.values
    straight = encoder(x).tokens.values
    torch.testing.assert_close(
        turned, straight.gather(1, order[..., None].expand(-1, -1, 32)), atol=1e-5, rtol=1e-4
    )


def test_other_sizes_than_the_specs():
    vit, net = ImageViT(SPEC, **TINY), ImageResNet(SPEC, 10, 8)
    for size in (16, 48):
        x = images(size=size)
        assert vit(x).tokens.values.shape[1] == (size // 8) ** 2 == vit.layout(x).n_tokens
        assert net(x).tokens.values.shape[1] == net.layout(x).n_tokens


@pytest.mark.parametrize(("stem", "grid"), [("small", (4, 4)), ("large", (1, 1)), ("auto", (4, 4))])
def test_stems(stem, grid):
    assert ImageResNet(SPEC, 18, stem=stem).grid == grid
    large = ImageSpec((224, 224), 3, (0.5,) * 3, (0.2,) * 3)
    assert ImageResNet(large, 18, 8).grid == (7, 7)


def test_resnet18_of_full_width_is_timms():
    import timm

    torch.manual_seed(0)
    ours = ImageResNet(SPEC, 18, stem="large").eval()
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(ours.body.net.state_dict())
    x = images()
    torch.testing.assert_close(ours(x).pooled, theirs(ours.prepare(x)))


def test_narrow_networks_have_the_widths_they_say():
    net = ImageResNet(SPEC, 18, 16)
    assert net.width == net.pooled_width == 128
    assert net.body.net.layer1[0].conv1.in_channels == 16
    assert net.body.net.layer1[0].downsample is None
    assert ImageResNet(SPEC, 50, 16).width == 512


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_half_precision(kind, autocast):
    encoder = (ImageViT(SPEC, **TINY) if kind == "vit" else ImageResNet(SPEC, 10, 8)).eval()
    x = images()
    full = encoder(x).pooled
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder(x).pooled
    else:
        half = encoder.to(torch.bfloat16)(x).pooled
    assert (half.float() - full).abs().mean() < 0.1 * full.abs().mean() + 0.02


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_timm_models_by_name(name):
    spec = ImageSpec((64, 64), 1, (0.5,), (0.2,))
    options = {"window_size": 4} if name.startswith("swin") else {}
    encoder = TimmModel(spec, name, options=options).eval()
    x = images(2, 64, 1)
    mask = RandomMask(0.5)(encoder.layout(x), draw(2))
    found = encoder(x, mask)
    assert found.pooled.shape == (2, encoder.pooled_width)
    head = encoder.predictor(encoder.target_width, depth=1, width=32, heads=2)
    prediction, target = head(found, mask, x), encoder.targets(x).select(mask)
    assert prediction.shape == target.shape
    assert (encoder.attention(x) is None) == (not name.startswith("vit"))


def test_timm_model_that_is_none():
    with pytest.raises(UserError, match=r"no model 'resnet19'; near: .*resnet18"):
        TimmModel(SPEC, "resnet19")


def test_pretrained_without_a_network(monkeypatch):
    import timm

    def refuse(*_, **options):
        if options.get("pretrained"):
            raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        UserError, match=r"cannot be fetched \(no route to host\); without a network give a file"
    ):
        TimmModel(SPEC, "resnet18", pretrained=True)


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped"])
def test_weights_from_a_file(tmp_path, form):
    from safetensors.torch import save_file

    donor = ImageViT(SPEC, **TINY).eval()
    state = donor.body.state_dict()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file({k: v.contiguous().clone() for k, v in state.items()}, str(file))
    elif form == "pt":
        torch.save(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.backbone.{k}": v for k, v in state.items()}}, file)
    encoder = ImageViT(SPEC, **TINY, weights=str(file)).eval()
    torch.testing.assert_close(encoder(images()).pooled, donor(images()).pooled)


def test_weights_that_do_not_fit(tmp_path):
    donor = ImageViT(SPEC, **TINY)
    torch.save(donor.body.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"do(es)? not fit this encoder: .* have other shapes"):
        ImageViT(SPEC, **{**TINY, "width": 64}, weights=str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match=r"are missing \(the first: blocks.2"):
        ImageViT(SPEC, **{**TINY, "depth": 3}, weights=str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match="does not exist"):
        ImageViT(SPEC, **TINY, weights=str(tmp_path / "no.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as weights"):
        ImageViT(SPEC, **TINY, weights=str(tmp_path / "text.pt"))


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("false",)


def test_code_in_a_file_of_weights_is_not_run(tmp_path):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        ImageViT(SPEC, **TINY, weights=str(tmp_path / "evil.pt"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"patch": 7}, "encoder.patch 7 does not divide images of 32 x 32; use 8"),
        ({"patch": 8, "width": 30, "heads": 4}, "encoder.width 30 is no multiple of encoder.heads 4"),
        ({"patch": 8, "class_token": False, "pooling": "cls"}, "encoder.pooling"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        ImageViT(SPEC, **options)
    with pytest.raises(ValueError, match=r"method.predictor.depth: 0"):
        ImageViT(SPEC, **TINY).predictor(4, depth=0)


def test_frozen_patches_stay(monkeypatch):
    encoder = ImageViT(SPEC, **TINY, freeze_patches=True)
    encoder(images()).pooled.sum().backward()
    assert all(p.grad is None for p in encoder.input_parameters())
    assert encoder.body.blocks[0].attn.qkv.weight.grad is not None
    assert encoder.body.pos_embed.grad is None  # fixed codes


def test_attention_adds_up_to_what_the_patches_get():
    encoder = ImageViT(SPEC, **TINY).eval()
    found = encoder.attention(images())
    assert found.shape == (4, 2, 4, 4)
    share = found.sum(dim=(2, 3))
    assert (share > 0).all()
    assert (share < 1).all()  # the rest is the class token's look at itself


def test_predictor_sees_target_sets():
    encoder = ImageViT(SPEC, **TINY)
    x = images()
    mask = MultiBlockMask()(encoder.layout(x), draw())
    prediction = encoder.predictor(32, width=16, depth=1, heads=2)(encoder(x, mask), mask, x)
    assert prediction.shape == encoder(x).tokens.select(mask).shape


def test_hidden_head_reads_hidden_places():
    head = HiddenHead(3, 2)
    values = torch.randn(2, 4, 3)
    hidden = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]]).bool()
    found = head(Encoded(Tokens(values, Grid((2, 2))), values.mean(1)), Mask(hidden))
    torch.testing.assert_close(found, head.out(values[hidden]))
