"""Hidden states on a clock: nearest frames, mean of layers, scale of the train recordings; runs that began
from a folder of weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import ssl_domains
from ssl_domains.core import registry
from ssl_domains.recipe.build import build
from ssl_domains.recipe.check import read_recipe
from ssl_domains.speech.sound import pad
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.torchaudio_guard import load_torchaudio

INNER = {"name": "speech_transformer", "width": 16, "depth": 2, "heads": 2, "dropout": 0.0}
SIZE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip


def make(**options):
    torch.manual_seed(0)
    plain = {"inner": INNER, "layers": (1, 2), "rate": 40.0, "seconds": 1.0, "trim": (0.0, 0.1)}
    return registry.get("encoder", "speech_clock")(SpeechSpec(), **(plain | options)).eval()


@pytest.fixture(scope="module", autouse=True)
def domain():
    registry.load_domain("speech")


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return pad([rng.normal(0, 0.1, n).astype(np.float32) for n in (16000, 16000, 12000)])


def test_a_tick_is_the_mean_of_the_layers_at_the_nearest_frame(x):
    encoder = make()
    found = encoder(x)
    states = encoder.inner(x, layers=True).layers
    mean = (states[1] + states[2]) / 2
    frames = encoder.inner.token_times(states[0].shape[1])
    assert found.tokens.values.shape == (3, 36, 16)
    for tick in (0, 7, 35):
        nearest = int(np.abs(frames - (tick + 0.5) / 40).argmin())
        torch.testing.assert_close(found.tokens.values[0, tick], mean[0, nearest])
    # Features side by side, each over time, as the brain's encoder has them.
    torch.testing.assert_close(found.pooled.view(3, 16, 36), found.tokens.values.transpose(1, 2))
    last = int(encoder.inner.token_lengths(x.lengths)[2]) - 1
    torch.testing.assert_close(found.tokens.values[2, 35], mean[2, last])


def test_what_is_trimmed_moves_the_clock(x):
    whole, later = make(trim=(0.0, 0.0)), make(trim=(0.25, 0.0))
    torch.testing.assert_close(whole(x).tokens.values[:, 10:], later(x).tokens.values)


def test_padding_changes_nothing(x):
    encoder = make()
    alone = pad([x.values[2, :12000].numpy()])
    torch.testing.assert_close(encoder(alone).pooled[0], encoder(x).pooled[2], atol=1e-5, rtol=1e-4)


def test_scale_is_that_of_the_rows_it_is_fitted_on(source):
    encoder = make(seconds=0.5)
    rows = source.splits["train"]
    encoder.fit(source, rows)
    with torch.no_grad():
        values = encoder(source.fetch(rows).x).pooled
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-4)
    kept = encoder.state_dict()
    assert {"mean", "deviation"} <= set(kept)


def test_what_cannot_be(x):
    with pytest.raises(ValueError, match="hidden states 0 to 2"):
        make(layers=(14, 18))(x)
    with pytest.raises(ValueError, match=r"encoder\.inner wants a name"):
        make(inner={})
    with pytest.raises(ValueError, match=r"encoder\.inner"):
        make(inner={**INNER, "widht": 3})
    with pytest.raises(ValueError, match="leaves nothing"):
        make(trim=(0.5, 0.5))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as transformers writes it, of other sizes than the defaults."""
    load_torchaudio()
    import transformers

    folder = tmp_path_factory.mktemp("weights") / "small"
    torch.manual_seed(77)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SIZE)).save_pretrained(folder)
    return folder


SHORT = ["train.steps=2", "train.device=cpu", "evaluate.probes=[]"]


def test_a_run_from_weights_is_used_without_their_folder(tmp_path, weights):
    folder = tmp_path / "folder"
    shutil.copytree(weights, folder)
    run = ssl_domains.pretrain(
        "speech/hubert", "encoder={name: speech_wav2vec2, family: wav2vec2}", f"encoder.weights={folder}",
        "data.source=generated://speech?utterances=24", *SHORT, run=tmp_path / "run", progress=False,
    )  # fmt: skip
    shutil.rmtree(folder)
    ssl_domains.evaluate(tmp_path / "run", "evaluate.probes=[knn]")
    again = ssl_domains.load(tmp_path / "run")
    assert again.encoder.model.config.num_hidden_layers == 3
    for key, value in run.encoder.encoder.state_dict().items():
        torch.testing.assert_close(again.encoder.state_dict()[key], value)


def test_the_random_baseline_of_a_run_from_weights_is_random(weights):
    experiment = build(
        read_recipe(
            "speech/hubert",
            [
                *("encoder={name: speech_wav2vec2, family: wav2vec2}", f"encoder.weights={weights}"),
                "data.source=generated://speech?utterances=24",
            ],
        )
    )
    first, second = (experiment.make_encoder(seed).state_dict() for seed in (0, 1))
    began = experiment.method.encoder_for_export().state_dict()
    key = "model.encoder.layers.2.attention.k_proj.weight"
    assert first[key].shape == began[key].shape
    assert not torch.equal(first[key], began[key])
    assert not torch.equal(first[key], second[key])


def test_a_brain_is_decoded_to_the_states_of_a_frozen_speech_encoder(tmp_path, weights):
    """Sensors and sound files in, by one table; the scale is fitted, the target never learns."""
    import soundfile

    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    rng = np.random.default_rng(0)
    lines = ["brain,brain_start,sound,sound_start,sound_end,word"]
    for i in range(2):
        np.savez(
            tmp_path / f"brain{i}.npz", x=rng.normal(size=(5, 40 * 12)).astype(np.float32), rate=40.0,
            positions=rng.uniform(size=(5, 2)), subject=f"s{i}",
        )  # fmt: skip
        soundfile.write(tmp_path / "story.wav", rng.normal(0, 0.1, 16000 * 12), 16000)
        lines += [f"brain{i}.npz,{s},story.wav,{s},{s + 1},{'ab'[s % 2]}" for s in range(11)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    recipe = {
        "domain": "crossmodal",
        "data": {
            "source": str(tmp_path / "pairs.csv"), "columns": {"a": "brain", "b": "sound"}, "label": "word",
            "test": 0.4,
        },
        "a": {
            "domain": "signals", "data": {"rate": 40, "seconds": 1.0, "trim": [0.15, 0]},
            "encoder": {
                "name": "brain_conv", "features": 16, "hidden": 8, "merger": 8, "embedding": 32, "depth": 4,
            },
        },
        "b": {
            "domain": "speech",
            "encoder": {
                "name": "speech_clock", "inner": {"name": "speech_wav2vec2", "weights": str(folder)},
                "rate": 40, "layers": [1, 3], "seconds": 1.0, "trim": [0, 0.15],
            },
        },
        "encoder": {"name": "towers", "width": 0},
        "method": {"name": "cross_modal", "towers": {"b": "cached"}, "same": "negative"},
        "objective": {"name": "info_nce", "normalize": "key", "temperature": 1.0},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "train": {"batch_size": 6, "steps": 3, "device": "cpu"},
        "evaluate": {
            "probes": [{"name": "pair_retrieval", "score": "key", "cutoffs": [1], "by_label": True}],
            "seeds": 1,
        },
    }  # fmt: skip
    run = ssl_domains.pretrain(recipe, run=tmp_path / "run", progress=False)
    tower = run.encoder.encoder.part("b")
    assert float(tower.deviation) != 1.0
    before = registry.get("encoder", "speech_wav2vec2")(SpeechSpec(), weights=str(weights)).state_dict()
    for key, value in tower.inner.state_dict().items():
        if key != "mask_token":
            torch.testing.assert_close(value, before[key])
    metrics = {row.metric for row in run.evaluation.rows}
    assert {"recall@1", "label_recall@1"} <= metrics
    assert "weights" not in (tmp_path / "run" / "encoder" / "config.json").read_text()
    shutil.rmtree(folder)
    assert ssl_domains.load(tmp_path / "run").encoder.part("b").inner.model.config.num_hidden_layers == 3
