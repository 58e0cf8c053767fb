"""Pictures of the report: clips, what was seen of them, what was filled in."""

import numpy as np
import pytest
import torch
from torch import nn

from ssl_domains.core.grid_masking import TubeMask
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.video.cross_video_mae import CrossVideoMAE
from ssl_domains.video.domain import VideoDomain
from ssl_domains.video.encoders.conv import SlowResNet
from ssl_domains.video.encoders.vit import VideoViT
from ssl_domains.video.figures import sheet
from ssl_domains.video.views import ClipAndFrames

SMALL = {"patch": 8, "width": 12, "depth": 1, "heads": 2}
DECODER = {"width": 12, "depth": 1, "heads": 2}


@pytest.fixture
def source():
    return VideoDomain().open("generated://clips?clips=30&frames=4&size=16", valid=0.1, test=0.2)


class Knowing(nn.Module):
    """Predicts what the cubes held."""

    def __init__(self, encoder):
        super().__init__()
        self.targets = encoder.targets

    def forward(self, encoded, mask, x):
        return self.targets(x).select(mask)


@pytest.mark.parametrize(
    ("normalize", "shown", "outer"), [("none", None, False), ("channel", 1, False), ("patch", None, False),
                                      ("none", None, True)]
)  # fmt: skip
def test_a_perfect_prediction_gives_the_clip_back(source, normalize, shown, outer):
    encoder = VideoViT(source.spec, normalize_target=normalize, target_frames=shown, **SMALL)
    method = MaskedReconstruction(encoder, MaskedMSE(normalize_target=outer), TubeMask(0.5), DECODER)
    method.predictor = Knowing(encoder)
    if outer:
        method.predictor.targets = lambda x: _normalised(encoder, x)
    method.train()
    (figure,) = VideoDomain().figures(encoder, source, method)
    assert method.training
    height = figure.pixels.shape[0]
    rows = [figure.pixels[k * 102 : (k + 1) * 102].astype(int) for k in range(3)]  # 96 and a frame of 3
    assert height == 3 * 3 * 102 + 2 * 3
    assert np.abs(rows[0] - rows[2]).max() <= 2, "what is predicted is what was hidden"
    assert np.abs(rows[0] - rows[1]).max() > 20, "something was hidden"


def _normalised(encoder, x):
    from ssl_domains.core.batch import Tokens

    values = encoder.targets(x).values
    centred = values - values.mean(dim=2, keepdim=True)
    return Tokens(centred / values.std(dim=2, keepdim=True))


def test_other_methods(source):
    encoder = VideoViT(source.spec, **SMALL)
    method = CrossVideoMAE(
        encoder, ClipAndFrames(source.spec), source.spec, predictor=DECODER, image_predictor=DECODER
    )
    assert len(VideoDomain().figures(encoder, source, method)) == 1
    assert VideoDomain().figures(encoder, source) == []
    conv = SlowResNet(source.spec, depth=10, width=4)
    held = MaskedReconstruction(conv, MaskedMSE(), TubeMask(0.5))
    assert len(VideoDomain().figures(conv, source, held)) == 1


def test_a_sheet_of_grey_clips():
    assert sheet([torch.rand(2, 1, 6, 8, 8)]).shape == (2 * 102 + 3, 4 * 102, 3)
    assert sheet([torch.rand(1, 3, 1, 200, 100)]).shape == (102, 54, 3)


def test_probes_pictures_and_an_export_without_its_first_weights(source, tmp_path):
    """An encoder that started from a file is used without it."""
    from safetensors.torch import save_file

    import ssl_domains

    encoder = VideoViT(source.spec, **SMALL)
    held = {}
    for key, value in encoder.state_dict().items():
        new = key.replace("embed.", "patch_embed.proj.").replace("blocks.blocks.", "blocks.")
        for old, name in (("attention.qkv", "attn.qkv"), ("attention.out", "attn.proj"), ("ffn.0", "mlp.fc1"),
                          ("ffn.3", "mlp.fc2")):  # fmt: skip
            new = new.replace(old, name)
        held[new] = value.contiguous()
    file = tmp_path / "start.safetensors"
    save_file(held, file)
    probes = "[knn,{name: fine_tune, epochs: 1},{name: same_class, gallery: train}]"
    run = ssl_domains.pretrain(
        "video/videomae",
        "data.source=generated://clips?clips=30&frames=4&size=16", "data.frames=4", "train.steps=1",
        "train.batch_size=8", f"evaluate.probes={probes}", "evaluate.seeds=1", "encoder.width=12",
        "encoder.depth=1", "encoder.heads=2", "mask.ratio=0.5", f"encoder.weights={file}",
        run=tmp_path / "run", progress=False,
    )  # fmt: skip
    for probe in ("knn", "fine_tune", "same_class"):
        assert any(row.probe.startswith(probe) for row in run.evaluation.rows), probe
    near = run.evaluation.neighbours
    assert near[0]["picture"]
    assert run.evaluation.figures[0]["title"] == "Reconstructions"
    file.unlink()
    assert run.encoder.encoder(source.fetch([0, 1]).x).pooled.shape == (2, 12)
