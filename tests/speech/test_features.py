"""Features against torchaudio, normalisation, SpecAugment, views and effects, weights of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import UserError
from ssl_domains.core.random import Draw
from ssl_domains.speech import effects
from ssl_domains.speech.features import Features, blanked
from ssl_domains.speech.sound import Sound, pad
from ssl_domains.speech.torchaudio_guard import load_torchaudio

RATE = 16000


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return pad([rng.normal(0, 0.1, n).astype(np.float32) for n in (9000, 16000)])


def test_fbank_is_that_of_kaldi(x):
    audio = load_torchaudio()
    found, lengths = Features(RATE, "fbank", normalise="none", level=None)(x)
    for row in range(2):
        wave = x.values[row, : x.lengths[row]][None] * 32768
        theirs = audio.compliance.kaldi.fbank(wave, num_mel_bins=80, sample_frequency=RATE)
        assert int(lengths[row]) == len(theirs)
        torch.testing.assert_close(found[row, : len(theirs)], theirs, atol=2e-3, rtol=1e-3)


def test_logmel_is_that_of_torchaudio(x):
    audio = load_torchaudio()
    found, lengths = Features(RATE, normalise="none", level=None)(x)
    mel = audio.transforms.MelSpectrogram(RATE, 512, 400, 160, f_min=20.0, n_mels=80, center=False)
    theirs = (mel(x.values[1:]) + 1e-10).log().transpose(1, 2)[0]
    torch.testing.assert_close(found[1, : lengths[1]], theirs)
    assert int(lengths[1]) == 1 + (16000 - 512) // 160


def test_each_band_has_mean_0_and_deviation_1(x):
    for kind, options in (("logmel", {}), ("mfcc", {"deltas": 2}), ("fbank", {})):
        features = Features(RATE, kind, **options)
        found, lengths = features(x)
        assert found.shape[2] == features.width
        for row in range(2):
            real = found[row, : lengths[row]]
            torch.testing.assert_close(real.mean(dim=0), torch.zeros(features.width), atol=1e-4, rtol=0)
            torch.testing.assert_close(
                real.std(dim=0, correction=0), torch.ones(features.width), atol=1e-3, rtol=0
            )
        assert not found[0, lengths[0] :].any()


def test_loudness_is_scaled_away(x):
    features = Features(RATE, normalise="none")
    louder = Sound(x.values * 7.0, x.lengths)
    torch.testing.assert_close(features(x)[0], features(louder)[0], atol=1e-4, rtol=1e-4)


def test_spec_augment_hides_what_it_says():
    values, lengths = torch.ones(2, 10, 8), torch.tensor([10, 5])
    blanks = torch.tensor([[[0.0, 0.2, 0.4], [1.0, 0.0, 0.25]], [[0.0, 0.0, 0.0], [1.0, 0.5, 0.5]]])
    seen = blanked(values, lengths, blanks)
    assert not seen[0, 2:4].any()
    assert not seen[0, :, :2].any()
    assert seen[0, 4:, 2:].all()
    assert seen[1].all()  # empty ones hide nothing


def test_mixing_keeps_the_ratio(x):
    snr = torch.tensor([3.0, -4.0])
    noise = effects.coloured_noise(x.values, RATE, Draw(0, 0, torch.arange(2)))
    found = effects.mixed(x, noise, snr)
    for row in range(2):
        n = int(x.lengths[row])
        added = (found.values - x.values)[row, :n]
        ratio = 10 * torch.log10(x.values[row, :n].square().mean() / added.square().mean())
        assert float(ratio) == pytest.approx(float(snr[row]), abs=0.05)
        assert not found.values[row, n:].any()


def test_speed_and_pitch_move_a_tone():
    time = torch.arange(RATE) / RATE
    tone = Sound(torch.sin(2 * torch.pi * 500 * time).expand(2, -1).clone(), torch.tensor([RATE, RATE]))
    fast = effects.faster(tone, torch.tensor([1.25, 1.0]), 1.0)
    assert fast.lengths.tolist() == [12800, 16000]
    peak = torch.fft.rfft(fast.values[0, :12800]).abs().argmax() * RATE / 12800
    assert float(peak) == pytest.approx(625, abs=3)
    torch.testing.assert_close(fast.values[1, :-2], tone.values[1, :-2])
    high = effects.higher(tone, torch.tensor([1.5, 1.5]), 1.5)
    assert high.lengths.tolist() == tone.lengths.tolist()
    assert float(torch.fft.rfft(high.values[0]).abs().argmax()) == pytest.approx(750, abs=4)


def test_a_room_keeps_loudness_and_smears(x):
    draw = Draw(0, 0, torch.arange(2))
    click = torch.zeros(2, 8000)
    click[:, 100] = 1.0
    wet = effects.in_room(
        Sound(click, torch.tensor([8000, 8000])), torch.full((2,), 0.2), 0.3, torch.zeros(2), RATE, draw
    )
    assert (wet.values[:, :100].abs() < 1e-4).all()  # nothing before it
    assert (wet.values[:, 101:2000].abs().sum(dim=1) > 1).all()
    torch.testing.assert_close(wet.values.square().sum(dim=1), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["sound_augment", "sound_crop", "utterance_mixing"])
def test_views_are_the_same_in_any_batch(name, source):
    """A view depends on seed, step and sample, but for what other recordings bring in."""
    options = {"share": 0.0} if name == "utterance_mixing" else {"crop": 0.5}
    views = registry.get("views", name)(spec=source.spec, **options)
    whole, one = source.fetch([4, 7, 9]), source.fetch([7])
    for a, b in zip(views(whole, Draw(0, 3, whole.index)), views(one, Draw(0, 3, one.index)), strict=True):
        n = int(b.x.lengths[0])
        assert int(a.x.lengths[1]) == n
        assert not a.x.values[1, n:].any()
        torch.testing.assert_close(a.x.values[1, :n], b.x.values[0, :n], atol=1e-5, rtol=1e-4)
        assert all(torch.equal(a.params[key][1], b.params[key][0]) for key in a.params)


def test_mixed_utterances_keep_their_clean_view(source):
    views = registry.get("views", "utterance_mixing")(spec=source.spec, share=1.0)
    batch = source.fetch(np.arange(6))
    mixed, clean = views(batch, Draw(0, 0, batch.index))
    assert (mixed.role, clean.role) == ("mixed", "clean")
    torch.testing.assert_close(clean.x.values, batch.x.values)
    changed = (mixed.x.values - clean.x.values).abs() > 1e-6
    assert (changed.sum(dim=1) <= 0.5 * batch.x.lengths + 1).all()  # at most half
    assert changed.any(dim=1).sum() >= 4
    assert torch.equal(mixed.x.lengths, clean.x.lengths)


def test_bad_view_options_are_named():
    for name, options, part in (
        ("sound_augment", {"crop": -1}, "crop"), ("sound_augment", {"speed": [1.1, 0.9]}, "speed"),
        ("sound_crop", {"crop": 0}, "crop"), ("utterance_mixing", {"share": 2}, "share"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"views.{part}"):
            registry.get("views", name)(**options)


def test_weights_of_transformers_load_and_agree(tmp_path, source, short_and_long, make):
    """A base model with group norm, saved by transformers, gives transformers' own states."""
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.Wav2Vec2Model(config).eval()
    theirs.save_pretrained(tmp_path / "base")
    encoder = registry.get("encoder", "speech_wav2vec2")(source.spec, weights=str(tmp_path / "base")).eval()
    alone = short_and_long[1][2]
    wave = (alone.values - alone.values.mean()) / (alone.values.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        found = encoder(alone, layers=True)
        states = theirs(wave, output_hidden_states=True)
    torch.testing.assert_close(found.tokens.values, states.last_hidden_state, atol=1e-5, rtol=1e-4)
    for a, b in zip(found.layers, states.hidden_states, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"lacks .* weights of a wavlm model"):
        registry.get("encoder", "speech_wav2vec2")(
            source.spec, family="wavlm", weights=str(tmp_path / "base")
        )
    with pytest.raises(UserError, match=r"no config\.json"):
        registry.get("encoder", "speech_wav2vec2")(source.spec, weights=str(tmp_path))
    with pytest.raises(ValueError, match="no field 'hidden_sizes'"):
        registry.get("encoder", "speech_wav2vec2")(source.spec, config={"hidden_sizes": 3})


@pytest.mark.parametrize("kind", ["wav2vec2-group", "data2vec"])
def test_copies_and_state_of_wrapped_models(kind, make, short_and_long):
    """A teacher's copy goes by its own lengths; no weight is there twice."""
    import copy

    encoder = make(kind)
    twin, (batch, alone) = copy.deepcopy(encoder), short_and_long
    encoder(alone[0])
    torch.testing.assert_close(twin(batch).pooled[1], twin(alone[1]).pooled[0], atol=2e-5, rtol=1e-4)
    values = list(encoder.state_dict().values())
    assert len({v.data_ptr() for v in values if v.numel()}) == len([v for v in values if v.numel()])


def test_training_reaches_every_weight_through_masks(make, source):
    encoder = make("conformer").train()
    batch = source.fetch([0, 1, 2, 3])
    mask = registry.get("mask", "span")()(encoder.layout(batch.x), Draw(0, 0, batch.index))
    encoder(batch.x, mask).tokens.flat().square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["transformer", "conformer", "wav2vec2", "cpc"])
def test_bfloat16_autocast(kind, make, short_and_long):
    encoder = make(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(short_and_long[0])
    whole = encoder(short_and_long[0]).pooled
    assert torch.nn.functional.cosine_similarity(found.pooled.float(), whole, dim=1).min() > 0.97


def test_a_mixture_is_as_long_as_the_longer(make, short_and_long):
    encoder, x = make("transformer"), short_and_long[0]
    batch = Batch(x, torch.arange(3))
    found = encoder.encode_mixture(batch.x, batch.x, torch.tensor([2, 0, 1]), 0.5)
    lengths = (~found.tokens.padding).sum(dim=1)
    assert torch.equal(lengths, encoder.token_lengths(torch.tensor([20000, 12345, 20000])))


def test_the_size_of_the_convolutions_output_is_penalised(make, short_and_long):
    """fairseq's ``features_pen``: the mean square before the norm, here of real frames alone."""
    nce = registry.get("objective", "info_nce")(in_batch=False, temperature=0.1)
    small = {"groups": 1, "codes": 8, "code_width": 8, "width": 8, "distractors": 5}
    batch = Batch(short_and_long[0], torch.arange(3))
    losses = []
    for penalty in (0.0, 10.0):
        encoder = make("wav2vec2-group")
        torch.manual_seed(0)
        mask = registry.get("mask", "span")()
        method = registry.get("method", "wav2vec2")(encoder, nce, mask, penalty=penalty, **small).eval()
        losses.append(method(batch, Draw(0, 0, batch.index)))
    size = torch.cat([encoder(x).extra["convolved"].values[0].square() for x in short_and_long[1]]).mean()
    torch.testing.assert_close(losses[1].loss - losses[0].loss, 10 * size, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses[1].parts["feature_size"], size.detach())
    with pytest.raises(ValueError, match=r"method\.penalty wants an encoder with convolutions"):
        registry.get("method", "wav2vec2")(make("transformer"), nce, mask, penalty=10.0)


def test_the_gradient_into_the_convolutions_is_scaled(make, short_and_long):
    found = []
    for factor in (1.0, 0.1):
        encoder = make("wav2vec2", conv_gradient=factor)
        encoder(short_and_long[0]).pooled.square().sum().backward()
        inner = encoder.model.feature_extractor.conv_layers[0].conv.weight.grad
        found.append((inner, encoder.model.feature_projection.projection.weight.grad))
    assert found[0][0].any()
    torch.testing.assert_close(found[1][0], 0.1 * found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])


def test_initial_weights_of_the_transformer(source):
    """TERA's deviation of 0.02, or Glorot's, for narrow tokens that say more of frames than of places."""
    made = registry.get("encoder", "speech_transformer")
    torch.manual_seed(0)
    theirs, wide = (made(source.spec, width=64, depth=1, heads=2, init=i) for i in ("normal", "xavier"))
    assert float(theirs.embed.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    bound = (6 / (64 + 80)) ** 0.5
    assert float(wide.embed.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert not wide.embed.bias.any()
    with pytest.raises(ValueError, match=r"encoder\.init"):
        made(source.spec, width=64, depth=1, heads=2, init="he")
