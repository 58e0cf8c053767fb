"""CrossVideoMAE: its masks, its loss by hand, what plays a part in which term, and who gets gradient."""

import math

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import UserError
from ssl_domains.core.layout import Grid
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.video.cross_video_mae import CrossVideoMAE, KeepMask, keep_count, same_video, singles
from ssl_domains.video.encoders.base import cubes, uncube
from ssl_domains.video.encoders.vit import VideoViT
from ssl_domains.video.spec import VideoSpec
from ssl_domains.video.views import ClipAndFrames

SPEC = VideoSpec(4, (16, 16), 3, (0.5,) * 3, (0.2,) * 3, 4)
SMALL = {"width": 12, "depth": 1, "heads": 2}
VIT = {"patch": 4, "positions": "learned", "normalize_target": "patch", "target_frames": 1, **SMALL}


def data(n=6, video=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    video = torch.arange(n) if video is None else torch.tensor(video)
    return Batch(x.permute(0, 4, 1, 2, 3), torch.arange(n), meta={"video": video})


def make(n_frames=1, **options):
    torch.manual_seed(0)
    views = ClipAndFrames(SPEC, n_frames=n_frames)
    given = {"predictor": SMALL, "image_predictor": SMALL, "projector": (8, 8), **options}
    return CrossVideoMAE(VideoViT(SPEC, **VIT), views, SPEC, **given)


def run(method, batch=None, step=0):
    batch = data() if batch is None else batch
    return method(batch, Draw(0, step, batch.index))


def test_exactly_so_many_tokens_stay():
    """The counts of the authors' building block, and of a frame."""
    assert [keep_count(r, 1568) for r in (0.9, 0.95)] == [156, 78]
    assert [keep_count(r, 196) for r in (0.75, 0.9)] == [49, 19]
    mask = KeepMask(0.9)(Grid((8, 14, 14)), Draw(0, 0, torch.arange(5)))
    assert (mask.visible.sum(dim=1) == 156).all()
    assert mask.context.shape == (5, 156)
    assert len({tuple(row.tolist()) for row in mask.context}) == 5, "each sample has its own"
    restored = torch.zeros_like(mask.hidden).scatter(1, mask.context, True)
    assert torch.equal(restored, mask.visible)


def test_the_sum_is_that_of_its_terms():
    out = run(make(reconstruction=2.0, within=0.5, across=0.25))
    p = out.parts
    wanted = (
        2 * (p["clips"] + p["frames"]) + 0.5 * (p["within_clips"] + p["within_frames"]) + 0.25 * p["across"]
    )
    assert float(out.loss.detach()) == pytest.approx(float(wanted), rel=1e-5)


def test_by_hand():
    """Every term again, from the encoders' outputs, with plain formulas."""
    method = make(n_frames=2).eval()
    batch = data()
    draw = Draw(0, 3, batch.index)
    out = method(batch, draw)
    draw = Draw(0, 3, batch.index)
    views = method.views(batch, draw.fork("views"))
    z, y = [], []
    for i in range(2):
        mask = method.masker(method.encoder.layout(views[i].x), draw.fork(f"mask{i}"))
        encoded = method.encoder(views[i].x, mask)
        z.append(method.projector(encoded.tokens.values.mean(dim=1)))
        if i == 0:
            prediction = method.predictor(encoded, mask, None)
            target = method.encoder.targets(views[0].x).values[mask.hidden]
            assert float(out.parts["clips"]) == pytest.approx(
                float((prediction - target).square().mean().detach()), rel=1e-5
            )
        x = singles(views[2 + i].x)
        assert torch.equal(x[3, :, 0], views[2 + i].x[1, :, 1]), "frame 1 of sample 1 is image 3"
        index = (torch.arange(6)[:, None] * 2 + torch.arange(2)).flatten()
        mask = method.image_masker(method.image_encoder.layout(x), draw.fork(f"still{i}").at(index))
        y.append(method.image_projector(method.image_encoder(x, mask).pooled).view(6, 2, 8))
    assert float(out.parts["within_clips"]) == pytest.approx(nt(z[0], z[1]), rel=1e-4)
    frames = np.mean([nt(y[0][:, s], y[1][:, s]) for s in range(2)])
    assert float(out.parts["within_frames"]) == pytest.approx(frames, rel=1e-4)
    clip, still = (z[0] + z[1]) / 2, (y[0] + y[1]) / 2
    assert float(out.parts["across"]) == pytest.approx(nt(clip, still.mean(1)), rel=1e-4)
    level = np.mean([nt(clip, still[:, s]) for s in range(2)])
    assert float(out.parts["across_frame_level"]) == pytest.approx(level, rel=1e-4)


def nt(a, b, tau=0.1):
    """NT-Xent as the sheet writes it: both directions, the positive and all others in the denominator."""
    a, b = (torch.nn.functional.normalize(v.detach(), dim=1).double() for v in (a, b))
    total = 0.0
    for p, q in ((a, b), (b, a)):
        for k in range(len(p)):
            own = sum(math.exp(float(p[k] @ p[m]) / tau) for m in range(len(p)) if m != k)
            other = sum(math.exp(float(p[k] @ q[m]) / tau) for m in range(len(p)))
            total -= math.log(math.exp(float(p[k] @ q[k]) / tau) / (own + other))
    return total / (2 * len(a))


def test_equal_embeddings_give_the_trivial_value():
    same = torch.ones(2, 4)
    assert float(NTXent(0.1)(same, same).total) == pytest.approx(math.log(3), abs=1e-6)  # log(2 N - 1)
    method = make(reconstruction=0.0, within=0.5, across=2.0)
    method.repeated = False  # what a source with one clip a video makes of it
    out = run(method)
    assert out.trivial["uniform"] == pytest.approx((0.5 * 2 + 2.0) * math.log(11))


def test_reconstruction_looks_at_hidden_cubes_only():
    method = make(within=0.0, across=0.0).eval()
    batch = data()
    x = batch.x.float() / 255
    mask = KeepMask(0.75)(method.encoder.layout(x), Draw(0, 0, batch.index))
    values = cubes(x, (2, 4, 4)).flatten(2)
    changed = torch.where(mask.hidden[..., None], values.flip(0), values)
    other = uncube(changed, (2, 4, 4), (2, 4, 4))
    one, two = method.encoder(x, mask), method.encoder(other, mask)
    assert torch.allclose(one.pooled, two.pooled, atol=1e-6), "z does not see hidden pixels"

    def loss(encoded, target):
        prediction = method.predictor(encoded, mask, None)
        return float(method.error(prediction, method.encoder.targets(target).select(mask)).total.detach())

    assert loss(one, x) != pytest.approx(loss(two, other), rel=1e-5)
    target = method.encoder.targets(x).select(mask)
    assert float(method.error(target, target).total) == 0
    assert float(method.error(torch.zeros_like(target), target).total) == pytest.approx(
        15 * 3 / 48 + 2 / 48, abs=0.05
    )


def test_without_contrast_it_is_a_masked_autoencoder():
    """The clips' part of the loss is that of masked reconstruction with the same masks and views."""
    method = make(within=0.0, across=0.0)
    out = run(method)
    assert set(out.parts) == {"clips", "frames", "constant_prediction"}
    plain = MaskedReconstruction(method.encoder, MaskedMSE(), KeepMask(0.9), predictor=SMALL)
    plain.predictor = method.predictor
    batch = data()
    draw = Draw(0, 0, batch.index)
    view = method.views(batch, draw.fork("views"))[0]
    mask = method.masker(method.encoder.layout(view.x), draw.fork("mask0"))
    encoded = plain.encoder(view.x, mask)
    terms = plain.objective(plain.predictor(encoded, mask), plain.encoder.targets(view.x).select(mask))
    assert torch.equal(terms.total.detach(), out.parts["clips"])


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({}, ()),
        ({"within": 0.0, "across": 0.0}, ("projector", "image_projector")),
        ({"reconstruction": 0.0}, ("predictor", "image_predictor")),
        ({"across": 0.0}, ()),
    ],
)
def test_who_gets_gradient(options, still):
    method = make(**options)
    run(method).loss.backward()
    for name, parameter in method.named_parameters():
        frozen = name.split(".")[0] in still
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name
    groups = method.parameter_groups()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in trained)
    slow = {id(p) for g in groups if g["lr_scale"] == 0.1 for p in g["params"]}
    assert {id(p) for p in method.image_encoder.parameters()} <= slow
    assert not {id(p) for p in method.encoder.parameters()} & slow


def test_a_frozen_branch_teaches_only(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="random branch teaches nothing"):
        make(freeze_image=True)
    branch = make().image_encoder
    names = {"embed.": "patch_embed.proj.", "norm.": "norm."}
    held = {}
    for key, value in branch.state_dict().items():
        if key.startswith(tuple(names)):
            held[key.replace("embed.", "patch_embed.proj.")] = value
        elif key.startswith("blocks.blocks."):
            rest = key.removeprefix("blocks.")
            for old, new in (("attention.qkv", "attn.qkv"), ("attention.out", "attn.proj"), ("ffn.0",
            "mlp.fc1"),
                             ("ffn.3", "mlp.fc2")):  # fmt: skip
                rest = rest.replace(old, new)
            held[rest] = value
    save_file({k: v.contiguous() for k, v in held.items()}, tmp_path / "image.safetensors")
    method = make(freeze_image=True, image={"weights": str(tmp_path / "image.safetensors")}).train()
    assert torch.equal(method.image_encoder.embed.weight, branch.embed.weight)
    assert not method.image_encoder.training
    out = run(method)
    assert "frames" not in out.parts
    out.loss.backward()
    assert all(p.grad is None for p in method.image_encoder.parameters())
    assert all(p.grad is not None for p in method.image_projector.parameters())


def test_the_frames_branch_starts_from_a_run_of_an_image_recipe(tmp_path):
    """Its features of frames are those of the image encoder; sizes come from the run, positions from its
    weights."""
    from ssl_domains.image.spec import ImageSpec
    from ssl_domains.trainer.checkpoint import save_encoder

    registry.scan_core()
    registry.load_domain("image")
    spec = ImageSpec((16, 16), 3, SPEC.mean, SPEC.std)
    options = {"patch": 8, "width": 24, "depth": 3, "heads": 3, "pooling": "mean", "class_token": False}
    torch.manual_seed(5)
    image = registry.get("encoder", "image_vit")(spec, **options).eval()
    save_encoder(
        tmp_path / "mae" / "encoder", image, domain="image", encoder_name="image_vit",
        encoder_options=options, spec=spec,
    )  # fmt: skip
    for folder in ("mae", "mae/encoder"):
        branch = make(image={"weights": str(tmp_path / folder)}).image_encoder.eval()
        frames = data().x[:, :, :1]
        with torch.no_grad():
            assert torch.allclose(
                branch(frames).tokens.values, image(frames[:, :, 0]).tokens.values, atol=1e-5
            )
    assert branch.heads == 3
    with pytest.raises(UserError, match="set positions=learned"):
        make(image={"weights": str(tmp_path / "mae"), "positions": "sequence"})
    with pytest.raises(UserError, match="have other shapes"):
        make(image={"weights": str(tmp_path / "mae"), "patch": 4})


def test_the_frames_branch_starts_from_vit_mae_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    torch.manual_seed(2)
    config = transformers.ViTMAEConfig(
        image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config)
    model.save_pretrained(tmp_path)
    branch = make(image={"weights": str(tmp_path)}, freeze_image=True).image_encoder
    theirs = load_file(tmp_path / "model.safetensors")
    assert (len(branch.blocks.blocks), branch.heads, branch.width) == (2, 4, 24)
    patches = theirs["vit.embeddings.patch_embeddings.projection.weight"]
    assert torch.equal(branch.embed.weight[:, :, 0], patches)
    assert torch.equal(branch.place, theirs["vit.embeddings.position_embeddings"][0, 1:])
    assert float(branch.time.abs().max()) == 0
    key = theirs["vit.encoder.layer.1.attention.attention.key.weight"]
    assert torch.equal(branch.blocks.blocks[1].attention.qkv.weight[24:48], key)
    assert torch.equal(branch.norm.weight, theirs["vit.layernorm.weight"])


def test_clips_of_one_video_are_no_negatives():
    mask = same_video(data(4, [0, 0, 1, 2]))
    assert mask.tolist() == [
        [False, True, False, False],
        [True, False, False, False],
        [False] * 4,
        [False] * 4,
    ]
    method = make(reconstruction=0.0).eval()
    apart = float(run(method, data(6)).loss.detach())
    together = float(run(method, data(6, [0, 0, 1, 1, 2, 2])).loss.detach())
    assert together < apart, "fewer negatives"
    # Two rows that only know each other as the same video have no negatives but each other: log 1.
    alone = run(make(reconstruction=0.0, across=0.0).eval(), data(2, [0, 0]))
    assert float(alone.parts["within_clips"]) == pytest.approx(0.0, abs=1e-6)


def part(rank, x, index, video):
    registry.scan_core()
    rows = slice(0, 3) if rank == 0 else slice(3, 6)
    torch.manual_seed(0)
    method = CrossVideoMAE(
        VideoViT(SPEC, **VIT),
        ClipAndFrames(SPEC),
        SPEC,
        predictor=SMALL,
        image_predictor=SMALL,
        projector=(8, 8),
    )
    batch = Batch(x[rows], index[rows], meta={"video": video[rows]})
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    return out.loss.detach(), method.encoder.embed.weight.grad, method.image_encoder.embed.weight.grad


def test_two_processes_are_one():
    batch = data(6, [0, 0, 1, 2, 2, 0])
    method = make()
    out = run(method, batch)
    out.loss.backward()
    (loss, one, three), (_, two, four) = run_processes(part, 2, batch.x, batch.index, batch.meta["video"])
    assert torch.allclose(loss, out.loss.detach(), atol=1e-5)
    assert torch.allclose((one + two) / 2, method.encoder.embed.weight.grad, atol=1e-5)
    assert torch.allclose((three + four) / 2, method.image_encoder.embed.weight.grad, atol=1e-5)


def test_it_learns_and_other_encoders_are_refused():
    method = make()
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=3e-3)
    losses = []
    for step in range(30):
        out = run(method, step=step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.2
    with pytest.raises(ValueError, match="drops hidden tokens"):
        CrossVideoMAE(VideoViT(SPEC, hidden="replace", **VIT), ClipAndFrames(SPEC), SPEC)
    with pytest.raises(ValueError, match="nor all be 0"):
        make(reconstruction=0.0, within=0.0, across=0.0)
    with pytest.raises(ValueError, match="tubelet is settled"):
        make(image={"tubelet": 2})
