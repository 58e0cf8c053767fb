"""Few-volume segmentation: scores by hand, training on phantoms, what the encoder keeps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.evaluation import evaluate_encoder
from ssl_domains.evaluation.segmentation import SegmentationProbe, Segmenter, scores_of


def test_scores_of_a_shifted_cube():
    truth = torch.zeros(16, 16, 16, dtype=torch.int64)
    truth[4:10, 4:10, 4:10] = 1
    truth[12:15, 12:15, 12:15] = 3
    perfect = scores_of(truth, truth, 5, (1.0, 1.0, 1.0), 0.5)
    assert perfect == {"dice": 1.0, "nsd": 1.0, "hd95": 0.0}
    guess = torch.roll(torch.where(truth == 1, truth, 0), 3, dims=0)
    found = scores_of(guess, torch.where(truth == 1, truth, 0), 5, (2.0, 1.0, 1.0), 1.0)
    assert found["dice"] == pytest.approx(0.5)
    assert found["hd95"] == pytest.approx(6.0)  # 3 voxels of 2 mm
    missed = scores_of(torch.zeros_like(truth), torch.where(truth == 1, truth, 0), 5, (1.0, 1.0, 1.0), 1.0)
    assert missed["dice"] == 0.0
    assert missed["nsd"] == 0.0
    assert missed["hd95"] == pytest.approx(np.sqrt(3) * 16)
    none = scores_of(truth, torch.zeros_like(truth), 5, (1.0, 1.0, 1.0), 1.0)
    assert np.isnan(none["dice"])


@pytest.mark.parametrize("name", ["decoder", "pyramid", "transformer", "slices"])
def test_segments_phantoms(name, patches, slices):
    source = slices if name == "slices" else patches
    torch.manual_seed(0)
    if name == "transformer":
        encoder = registry.get("encoder", "volume_vit")(source.spec, patch=4, width=24, depth=1, heads=2)
    else:
        unet = registry.get("encoder", "monai_unet")
        encoder = unet(source.spec, features=(8, 8, 16), decoder=name == "decoder", norm="batch")
    before = copy.deepcopy(encoder.state_dict())
    steps = 60 if name == "decoder" else 3
    probe = {"segmentation": {"volumes": 2, "steps": steps, "lr": 1e-2, "max_test": 1}}
    found = evaluate_encoder(encoder, source, probes=[probe], seeds=1, batch_size=64)
    rows = {row.metric: row for row in found.rows}
    assert set(rows) == {"dice", "nsd", "hd95"}
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    if name == "decoder":
        assert rows["dice"].mean > 0.3  # five structures; nothing but background gives 0


def test_a_transformer_gets_the_decoder_of_unetr(medical, patches):
    source = medical.open(
        "generated://phantoms?patients=4&size=32", patch=(32, 32, 32), valid=0.25, test=0.25
    )
    torch.manual_seed(0)
    encoder = registry.get("encoder", "monai_vit")(source.spec, width=24, depth=4, heads=2, ffn=48)
    probe = SegmentationProbe(volumes=1, steps=1, max_test=1, decoder=True)
    model = probe.fitted(encoder, source, 0, torch.device("cpu"))
    assert model.decodes
    assert [s.metric for s in probe.scored(model, source, torch.device("cpu"))] == ["dice", "nsd", "hd95"]
    bare = registry.get("encoder", "volume_vit")(patches.spec, patch=4, width=24, depth=1, heads=2)
    with pytest.raises(UserError, match="no decoder to offer"):
        probe.fitted(bare, patches, 0, torch.device("cpu"))


def test_labelled_volumes_are_of_training_patients(patches):
    probe = SegmentationProbe(volumes=2)
    rows = probe.labelled_rows(patches, 0)
    assert np.isin(rows, patches.splits["train"]).all()
    assert len(np.unique(patches.recordings[rows])) == 2
    assert not np.array_equal(rows, probe.labelled_rows(patches, 1))


def test_frozen_trains_the_head_alone(patches):
    torch.manual_seed(0)
    encoder = registry.get("encoder", "monai_unet")(patches.spec, features=(4, 4, 8), norm="batch")
    probe = SegmentationProbe(volumes=1, steps=2, frozen=True)
    model = probe.fitted(encoder, patches, 0, torch.device("cpu"))
    for own, other in zip(model.encoder.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(own, other)
    assert isinstance(model, Segmenter)


def test_says_why_not(medical):
    class NoMasks:
        dense_classes = None

    assert "needs masks" in SegmentationProbe().why_not(NoMasks(), None)
