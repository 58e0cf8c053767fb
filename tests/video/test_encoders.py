"""Encoders: parity with transformers' VideoMAE, hidden cubes play no part, targets are the papers'."""

import copy

import pytest
import torch

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import UserError
from ssl_domains.core.grid_masking import TubeMask
from ssl_domains.core.layout import Grid
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.video.encoders.base import cubes, uncube
from ssl_domains.video.encoders.conv import FrameEncoder, R2Plus1D, SlowResNet
from ssl_domains.video.encoders.vit import VideoViT
from ssl_domains.video.spec import VideoSpec

SPEC = VideoSpec(4, (16, 16), 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), 4)
SMALL = {"patch": 4, "width": 24, "depth": 2, "heads": 2}
ENCODERS = {
    "vit": lambda spec=SPEC: VideoViT(spec, **SMALL),
    "vit-grid": lambda spec=SPEC: VideoViT(spec, positions="grid", **SMALL),
    "vit-learned": lambda spec=SPEC: VideoViT(spec, positions="learned", hidden="replace", **SMALL),
    "slow": lambda spec=SPEC: SlowResNet(spec, depth=10, width=4),
    "slow50": lambda spec=SPEC: SlowResNet(spec, depth=50, width=4),
    "r2plus1d": lambda spec=SPEC: R2Plus1D(spec, depth=10),
    "frames": lambda spec=SPEC: FrameEncoder(spec, "test_resnet", pooling="difference"),
}


def clips(n=2, frames=4, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, frames, size, size), generator=generator, dtype=torch.uint8)


def test_cubes_stand_where_the_grid_says():
    x = torch.arange(2 * 3 * 4 * 6 * 8).view(2, 3, 4, 6, 8)
    found = cubes(x, (2, 3, 4))
    assert found.shape == (2, 2 * 2 * 2, 2, 12, 3)
    token = (1 * 2 + 0) * 2 + 1  # second time, first row, second column
    assert torch.equal(found[1, token, 1, :, 2], x[1, 2, 3, 0:3, 4:8].flatten())
    assert torch.equal(uncube(found.flatten(2), (2, 2, 2), (2, 3, 4)), x)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_the_contract(name):
    encoder = ENCODERS[name]().eval()
    x = clips()
    out = encoder(x, layers=True)
    grid = encoder.layout(x)
    assert out.tokens.values.shape == (2, grid.n_tokens, encoder.width)
    assert out.pooled.shape == (2, encoder.pooled_width)
    assert encoder.targets(x).values.shape == (2, grid.n_tokens, encoder.target_width)
    as_floats = encoder(x.float() / 255).pooled
    assert torch.allclose(out.pooled, as_floats, atol=1e-5)
    mask = RandomMask(0.5)(grid, Draw(0, 0, torch.arange(2)))
    seen = encoder(x, mask)
    assert seen.tokens.values.shape[1] == (grid.n_tokens // 2 if encoder.drops_hidden else grid.n_tokens)
    options = {"width": 12, "depth": 1, "heads": 2} if "vit" in name else {}
    rows = encoder.predictor(5, **options)(seen, mask)
    assert rows.shape == (int(mask.hidden.sum()), 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(encoder(x, mask).pooled).all()
    assert encoder.input_parameters()


@pytest.mark.parametrize("name", ["vit", "vit-learned", "slow", "r2plus1d", "frames"])
def test_what_is_hidden_plays_no_part(name):
    encoder = ENCODERS[name]().eval()
    x = clips()
    grid = encoder.layout(x)
    mask = RandomMask(0.5)(grid, Draw(0, 0, torch.arange(2)))
    cube = encoder.cube_of(x)
    values = cubes(x.float() / 255, cube).flatten(2)
    changed = torch.where(mask.hidden[..., None], 1 - values, values)
    other = uncube(changed, grid.shape, cube)
    assert torch.allclose(encoder(x, mask).pooled, encoder(other, mask).pooled, atol=1e-5)
    assert not torch.allclose(encoder(x).pooled, encoder(other).pooled, atol=1e-3)
    if name == "vit":  # and what is seen is what the whole would be with these tokens alone
        assert encoder(x, mask).tokens.values.shape[1] == grid.n_tokens // 2


def test_more_frames_than_a_clip_means_the_middle():
    encoder = ENCODERS["vit"](VideoSpec(4, (16, 16), 3, SPEC.mean, SPEC.std, window=9)).eval()
    x = clips(frames=9)
    assert torch.allclose(encoder(x).pooled, encoder(x[:, :, 2:6]).pooled)
    assert encoder.layout(x) == Grid((2, 4, 4))


@pytest.mark.parametrize("pooled", [True, False])
def test_features_are_those_of_transformers(tmp_path, pooled):
    """The same weights, masked and not, give the features of transformers' own VideoMAE."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=4, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=96, use_mean_pooling=pooled,
    )  # fmt: skip
    reference = transformers.VideoMAEModel(config).eval()
    for parameter in reference.parameters():
        parameter.data.normal_(std=0.2)
    reference.save_pretrained(tmp_path / "model")
    options = {**SMALL, "norm": not pooled, "norm_eps": config.layer_norm_eps}
    encoder = VideoViT(SPEC, weights=str(tmp_path / "model"), **options).eval()
    x = clips()
    pixels = encoder.prepare(x).transpose(1, 2)  # [B, T, C, H, W]
    mask = TubeMask(0.75)(encoder.layout(x), Draw(0, 0, torch.arange(2)))
    with torch.no_grad():
        whole = reference(pixels).last_hidden_state
        seen = reference(pixels, bool_masked_pos=mask.hidden).last_hidden_state
        assert torch.allclose(encoder(x).tokens.values, whole, atol=2e-5, rtol=1e-4)
        assert torch.allclose(encoder(x, mask).tokens.values, seen, atol=2e-5, rtol=1e-4)
    with pytest.raises(UserError, match="last norm: set encoder.norm=false" if pooled else "no place here"):
        VideoViT(SPEC, weights=str(tmp_path / "model"), **{**options, "norm": pooled})
    with pytest.raises(UserError, match="other shapes"):
        VideoViT(SPEC, weights=str(tmp_path / "model"), **{**options, "width": 48})
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        VideoViT(SPEC, weights=str(tmp_path), **options)


def test_targets_and_loss_are_those_of_transformers():
    """VideoMAE's own pretraining model, asked for its loss with our predictions in the place of its own."""
    transformers = pytest.importorskip("transformers")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # which it assumes to be those of the pixels
    spec = VideoSpec(4, (16, 16), 3, mean, std, 4)
    encoder = VideoViT(spec, **SMALL)
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=4, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=24, decoder_hidden_size=12, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=12,
    )  # fmt: skip
    model = transformers.VideoMAEForPreTraining(config).eval()
    x = clips()
    mask = TubeMask(0.75)(encoder.layout(x), Draw(0, 0, torch.arange(2)))
    with torch.no_grad():
        out = model(encoder.prepare(x).transpose(1, 2), bool_masked_pos=mask.hidden)
    target = encoder.targets(x).select(mask)
    ours = (out.logits.flatten(0, 1) - target).square().mean()
    assert float(ours) == pytest.approx(float(out.loss), rel=1e-4)


def test_images_weights_in_the_names_of_timm():
    """A timm ViT without class token gives the same features of single frames."""
    import timm

    torch.manual_seed(0)
    body = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0,
        class_token=False, global_pool="avg", fc_norm=False,
    ).eval()  # fmt: skip
    spec = SPEC.of_frames()
    encoder = VideoViT(spec, tubelet=1, positions="learned", norm_eps=1e-6, **SMALL).eval()
    from ssl_domains.video.encoders import weights

    found = weights._renamed(dict(body.state_dict()), encoder)
    encoder.load_state_dict({**encoder.state_dict(), **found})
    encoder.place.data, encoder.time.data = body.pos_embed.data[0].clone(), torch.zeros_like(encoder.time)
    x = clips(frames=1)
    with torch.no_grad():
        wanted = body.forward_features(encoder.prepare(x)[:, :, 0])
    assert torch.allclose(encoder(x).tokens.values, wanted, atol=1e-5)


def test_normalised_targets():
    """By hand: each colour of a cube has mean 0 and deviation 1; one of two frames; patches as MAE has
    them."""
    x = clips()
    found = VideoViT(SPEC, **SMALL).targets(x).values.view(2, 32, 32, 3)
    assert found.mean(dim=2).abs().max() < 1e-5
    assert torch.allclose(found.std(dim=2), torch.ones(2, 32, 3), atol=1e-4)
    one = VideoViT(SPEC, normalize_target="patch", target_frames=1, **SMALL)
    assert one.target_width == 16 * 3
    values = one.targets(x).values
    pixels = cubes(one.prepare(x), (2, 4, 4))[:, :, 0].flatten(2)
    centred = pixels - pixels.mean(dim=2, keepdim=True)
    wanted = centred / (pixels.var(dim=2, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(values, wanted, atol=1e-5)


def test_slow_networks_look_at_time_late_and_never_stride_it():
    net = SlowResNet(SPEC, depth=50, width=4)
    kernels = [m.kernel_size[0] for m in net.body.modules() if isinstance(m, torch.nn.Conv3d)]
    assert net.grid[0] == SPEC.frames
    assert set(kernels) == {1, 3}
    first = kernels.index(3) / len(kernels)
    assert first > 0.4, "convolutions over time stand in the last two stages"


def test_frames_alone_do_not_know_their_order():
    encoder = FrameEncoder(SPEC, "test_resnet", pooling="mean").eval()
    x = clips()
    assert torch.allclose(encoder(x).pooled, encoder(x.flip(2)).pooled, atol=1e-5)
    jumbled = x[:, :, [0, 2, 1, 3]]
    aware = ENCODERS["frames"]().eval()
    assert not torch.allclose(aware(x).pooled, aware(jumbled).pooled, atol=1e-5)


def test_small_and_large_stems():
    large = VideoSpec(4, (72, 72), 3, SPEC.mean, SPEC.std, 4)
    assert R2Plus1D(large, depth=10).grid == (1, 5, 5)
    assert SlowResNet(large, depth=10, width=4).grid == (4, 3, 3)
    grey = VideoSpec(4, (16, 16), 1, (0.5,), (0.2,), 4)
    assert R2Plus1D(grey, depth=10)(torch.rand(2, 1, 4, 16, 16)).pooled.shape == (2, 512)


def test_wrong_options():
    for options, sentence in (
        ({**SMALL, "patch": 5}, "encoder.patch 5 does not divide frames of 16 x 16; use 4"),
        ({**SMALL, "tubelet": 3}, "encoder.tubelet 3 does not divide clips of 4 frames"),
        ({**SMALL, "heads": 5}, "no multiple of encoder.heads"),
        ({**SMALL, "target_frames": 3}, "1 to the tubelet's 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            VideoViT(SPEC, **options)
    encoder = VideoViT(SPEC, positions="learned", **SMALL)
    with pytest.raises(ValueError, match="positions: learned for a grid"):
        encoder(clips(frames=6))
    with pytest.raises(ValueError, match=r"wants clips \[B, 3, T, H, W\]"):
        encoder(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="reads mask tokens"):
        encoder.predictor(3, depth=0)


def test_masked_steps_are_the_unmasked_ones_of_visible_tokens():
    """The projection of visible cubes alone equals the convolution's at their places."""
    encoder = VideoViT(SPEC, **{**SMALL, "depth": 1})
    x = clips()
    index = torch.tensor([[0, 5, 9], [3, 4, 31]])
    hidden = torch.ones(2, 32, dtype=torch.bool).scatter_(1, index, False)
    only = copy.deepcopy(encoder)
    only.blocks.blocks = torch.nn.ModuleList()
    only.norm = torch.nn.Identity()
    whole = only(x).tokens.values
    seen = only(x, Mask(hidden, context=index)).tokens.values
    assert torch.allclose(seen, torch.gather(whole, 1, index[..., None].expand(-1, -1, 24)), atol=1e-5)
