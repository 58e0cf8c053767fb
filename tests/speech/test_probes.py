"""SUPERB's protocols: hand values, invariances, and a run on generated speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core import registry
from ssl_domains.core.errors import RecipeError, UserError
from ssl_domains.evaluation.evaluate import evaluate_encoder
from ssl_domains.evaluation.frames import dtw, frame_labels
from ssl_domains.evaluation.probes import build_probe
from ssl_domains.evaluation.recognition import CTCHead, edits, error_rate, greedy
from ssl_domains.evaluation.state_heads import Batches
from ssl_domains.evaluation.superb import UtteranceHead, XVector, equal_error_rate
from ssl_domains.evaluation.token_states import Featurizer, Reader, States


def test_featurizer_begins_as_the_mean_and_can_select():
    states = torch.randn(2, 3, 5, 4)
    f = Featurizer(3)
    torch.testing.assert_close(f(states), states.mean(dim=1))
    f.weights.data[1] = 100.0
    torch.testing.assert_close(f(states), states[:, 1])


def test_padding_changes_no_head():
    torch.manual_seed(0)
    states, lengths = torch.randn(1, 2, 6, 4), torch.tensor([6])
    padded = torch.cat([states, torch.randn(1, 2, 5, 4)], dim=2)
    heads = [UtteranceHead(2, 4, 8, 3, True), XVector(2, 4, 8, 3, True)]
    for head in heads:
        torch.testing.assert_close(head(states, lengths), head(padded, lengths))
    for lstm in (0, 1):
        head = CTCHead(2, 4, 8, lstm, 5, True)
        torch.testing.assert_close(head(states, lengths), head(padded, lengths)[:, :6])


def test_am_softmax_without_margin_is_the_softmax_of_cosines():
    net = XVector(1, 4, 8, 3, False)
    z, who = torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    cosine = torch.nn.functional.cosine_similarity(z[:, None], net.speakers[None], dim=-1)
    plain = torch.nn.functional.cross_entropy(30 * cosine, who)
    torch.testing.assert_close(net.loss(z, who, margin=0.0), plain)
    assert net.loss(z, who) > plain


def test_equal_error_rates_by_hand():
    same = np.array([True, True, False, False])
    assert equal_error_rate(same, np.array([0.9, 0.8, 0.2, 0.1])) == 0.0
    assert equal_error_rate(same, np.array([0.1, 0.2, 0.8, 0.9])) == 1.0
    assert equal_error_rate(same, np.array([0.9, 0.3, 0.4, 0.1])) == 0.5
    rng = np.random.default_rng(0)
    assert equal_error_rate(rng.random(20000) < 0.5, rng.random(20000)) == pytest.approx(0.5, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_a_distance(a, b):
    def slow(x, y):
        if not x or not y:
            return len(x) + len(y)
        rest = min(slow(x[1:], y), slow(x, y[1:]), slow(x[1:], y[1:]) - 1 + (x[0] != y[0]))
        return 1 + rest

    if len(a) * len(b) <= 25:
        assert edits(a, b) == slow(a, b)
    assert edits(a, b) == edits(b, a)
    assert (edits(a, b) == 0) == (a == b)


def test_error_rate_and_greedy_decoding_by_hand():
    assert edits("kitten", "sitting") == 3
    assert error_rate(["abc", ""], ["abd", "a"]) == 0.5
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0, 1, 2, 2, 2]]), 3).float()
    assert greedy(logits, torch.tensor([6])) == [[1, 1, 2]]


def test_dtw_of_equal_and_of_orthogonal_sequences():
    eye = torch.eye(3)
    assert dtw([eye], [eye]).item() == 0.0
    slow = eye[[0, 0, 0, 1, 2, 2]]
    assert dtw([slow], [eye]).item() == 0.0  # the same at another pace
    assert dtw([eye[[0]]], [eye[[1, 1]]]).item() == pytest.approx(0.5)  # right angles everywhere
    pairs = [torch.nn.functional.normalize(torch.randn(n, 3), dim=1) for n in (2, 5, 4)]
    others = [torch.nn.functional.normalize(torch.randn(n, 3), dim=1) for n in (6, 3, 4)]
    torch.testing.assert_close(dtw(pairs, others), dtw(others, pairs))
    alone = torch.cat([dtw([a], [b]) for a, b in zip(pairs, others, strict=True)])
    torch.testing.assert_close(dtw(pairs, others), alone)


class Known(Reader):
    """States that say which stretch a frame is of, or nothing."""

    def __init__(self, source, knows: bool) -> None:
        super().__init__(source, None)
        self.knows = knows

    def read(self, rows):
        kinds = len(self.source.segment_names)
        for states in super().read(rows):
            n = states.layers.shape[2]
            kind = np.stack([frame_labels(self.source, int(rows[at]), self.times(n)) for at in states.at])
            one = torch.nn.functional.one_hot(torch.from_numpy(kind) + 1, kinds + 1).float()
            values = one if self.knows else torch.ones_like(one)
            yield States(states.at, values[:, None], states.lengths)


@pytest.mark.parametrize(("knows", "error", "accuracy"), [(True, 0.0, 1.0), (False, 0.5, None)])
def test_abx_and_frames_of_perfect_and_of_constant_features(source, knows, error, accuracy):
    registry.scan_core()
    abx = build_probe({"abx": {"triples": 100}}).score(Known(source, knows), 0)
    assert abx[0].value == pytest.approx(error, abs=1e-6)
    found = build_probe({"frames": {"max_frames": 2000, "epochs": 20, "lr": 0.02}}).score(
        Known(source, knows), 0
    )
    assert found[0].value == pytest.approx(1.0, abs=0.01) if accuracy else found[0].value < 0.6


def test_protocols_run_on_an_encoder(source, make):
    encoder = make("transformer")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = evaluate_encoder(
        encoder, source, seeds=1, batch_size=8,
        probes=[
            {"superb_utterance": {"epochs": 2}}, "speaker_verification",
            {"superb_utterance": {"epochs": 1, "layer": 0, "of": "speaker"}},
            {"speaker_verification": {"train": True, "epochs": 2}}, {"recognition": {"epochs": 1}},
            {"recognition": {"units": "phones", "epochs": 1, "lstm": 1}},
            {"frames": {"epochs": 1, "context": 1, "hidden": 8, "layer": -1, "max_frames": 500}},
            {"abx": {"triples": 50, "across": True}},
        ],
    )  # fmt: skip
    names = {(row.features, row.metric) for row in found.rows}
    wanted = ["accuracy", "equal_error_rate", "character_error_rate", "word_error_rate", "phone_error_rate"]
    for metric in (*wanted, "frame_accuracy", "abx_error"):
        assert ("pretrained", metric) in names, found.notes
    assert any("two speakers that are in all splits" in note for note in found.notes)  # they stay whole here
    for metric in ("frame_accuracy", "abx_error", "phone_error_rate"):
        assert ("raw", metric) in names
    assert all(np.isfinite(row.mean) for row in found.rows)
    assert not encoder.training
    assert all(p.grad is None for p in encoder.parameters())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_speakers_are_told_apart_where_they_are_in_all_splits(make):
    """Speakers as classes, though the label is another thing; with a layer of one's own choice."""
    source = registry.load_domain("speech")().open(
        source="generated://speech?utterances=40&speakers=3", valid=0.2, test=0.3, group="file"
    )
    probe = build_probe({"superb_utterance": {"of": "speaker", "epochs": 12, "lr": 0.01, "width": 32}})
    assert probe.why_not(source, None) == ""
    names = {score.metric: score.value for score in probe.baselines(source)["raw"]}
    assert names["accuracy"] > 0.6  # three voices
    with pytest.raises(RecipeError, match="of must be label or speaker"):
        build_probe({"superb_utterance": {"of": "mood"}})


def test_one_layer_is_taken_by_its_number(source, make):
    encoder = make("transformer")
    rows = np.arange(3)
    (whole,) = Reader(source, encoder).read(rows)
    for layer in (0, 2, -1):
        ((_, states, _),) = Batches(Reader(source, encoder), rows, layer)
        assert torch.equal(states, whole.layers[:, [layer]])
    with pytest.raises(UserError, match="layer 3: the encoder gives 3"):
        list(Batches(Reader(source, encoder), rows, 3))
    assert [b[1].shape[1] for b in Batches(Reader(source, None), rows, 2)] == [1]  # plain frames have one


def test_reasons_why_a_protocol_cannot_run(source):
    from ssl_domains.speech.domain import SpeechDomain

    rng = np.random.default_rng(0)
    plain = SpeechDomain().open(([rng.normal(0, 0.1, 8000) for _ in range(12)], 16000))
    for probe, part in (("frames", "segments"), ("recognition", "text"), ("speaker_verification", "speaker"),
                        ("superb_utterance", "classes")):  # fmt: skip
        assert part in build_probe(probe).why_not(plain, None)


def test_short_rows_can_be_left_out(source):
    """Words that are rows beside the sentences they are cut out of."""
    from ssl_domains.evaluation.frames import with_segments

    limit = float(np.median(source.lengths))
    kept = with_segments(source, limit)
    assert len(kept) == int((source.lengths >= limit).sum()) < len(with_segments(source))
    for units in ("phones", "characters"):
        probe = build_probe({"recognition": {"units": units, "min_seconds": limit}})
        assert sorted(probe._targets(source)) == kept.tolist()
    for name in ("frames", "abx"):
        assert "labelled stretches" in build_probe({name: {"min_seconds": 99.0}}).why_not(source, None)
