"""wav2vec 2.0, w2v-BERT, masked prediction, APC, CPC: values by hand, gradients, a second implementation."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch, Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw


class Tiny(Encoder):
    """Frames ``[B, N, 6]``; a local map, and a running mean as context, in two blocks."""

    drops_hidden: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    local_width = 6

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(6))

    def layout(self, x):
        return Grid((x.shape[1],), torch.full((len(x),), x.shape[1]))

    def targets(self, x):
        return Tokens(x, self.layout(x))

    @property
    def target_width(self):
        return 6

    def forward(self, x, mask: Mask | None = None, *, layers=False):
        seen = x if mask is None else torch.where(mask.hidden[..., None], self.mask_token, x)
        steps = torch.arange(1, x.shape[1] + 1)[:, None]
        one = torch.tanh(self.first(seen)).cumsum(dim=1) / steps
        two = torch.tanh(self.second(one))
        return Encoded(
            Tokens(two), two.mean(dim=1), [seen, one, two] if layers else None, {"local": Tokens(x)}
        )


def build(name, objective="info_nce", given=None, mask="span", **options):
    registry.scan_core()
    torch.manual_seed(0)
    nce = (
        {"in_batch": False, "temperature": 0.1} if given is None and objective == "info_nce" else given or {}
    )
    if mask is not None:
        options["masker"] = registry.get("mask", mask)()
    return registry.get("method", name)(Tiny(), registry.get("objective", objective)(**nce), **options)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(torch.randn(4, 60, 6), torch.arange(4))


def test_equal_similarities_give_ln_101_and_ln_1024(batch):
    method = build("w2v_bert", context_layer=1, code_width=8, width=8)
    nn.init.zeros_(method.project_context.weight)  # every context is its bias: all cosines alike
    nn.init.zeros_(method.project_code.weight)
    nn.init.zeros_(method.predict.weight)
    nn.init.zeros_(method.predict.bias)
    parts = method(batch, Draw(0, 0, batch.index)).parts
    assert float(parts["contrast"]) == pytest.approx(
        math.log(101), abs=0.05
    )  # a few distractors have its code
    assert float(parts["prediction"]) == pytest.approx(math.log(1024), abs=1e-5)


def test_distractors_with_the_same_code_are_left_out(batch):
    method = build("wav2vec2", codes=4, groups=1, code_width=8, width=8)
    nn.init.zeros_(method.quantiser.scores.weight)
    method.quantiser.scores.bias.data[0] = 1000.0  # a collapsed codebook
    parts = method(batch, Draw(0, 0, batch.index)).parts
    assert float(parts["contrast"]) == pytest.approx(0.0, abs=1e-6)
    assert float(parts["code_perplexity"]) == pytest.approx(1.0)


def test_weights_of_w2v_bert_switch_its_parts(batch):
    options = {"context_layer": 1, "codes": 16, "code_width": 8, "width": 8}
    plain = build("wav2vec2", groups=1, temperature=(2.0, 0.1, 0.999995), **options)
    both = build("w2v_bert", gamma=0.0, **options)
    both.load_state_dict(plain.state_dict(), strict=False)
    draw = Draw(0, 0, batch.index)
    torch.testing.assert_close(both(batch, draw).loss, plain(batch, Draw(0, 0, batch.index)).loss)
    upper = build("w2v_bert", beta=0.0, **options)
    upper(batch, Draw(0, 0, batch.index)).loss.backward()
    for part in (upper.quantiser, upper.project_code, upper.project_context):
        assert all(p.grad is None or not p.grad.any() for p in part.parameters())
    assert upper.encoder.first.weight.grad.any()  # the prediction's gradient passes the lower block


def test_contrast_trains_lower_blocks_only(batch):
    method = build("w2v_bert", gamma=0.0, context_layer=1, codes=16, code_width=8, width=8)
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    second = method.encoder.second.weight.grad
    assert second is None or not second.any()
    assert method.encoder.first.weight.grad.any()


def test_hidden_content_reaches_targets_alone(batch):
    """Features at hidden places change no context."""
    method = build("wav2vec2", codes=16, code_width=8, width=8)
    mask = method.masker(method.encoder.layout(batch.x), Draw(0, 0, batch.index).fork("mask"))
    x = batch.x.clone().requires_grad_()
    method.encoder(x, mask).tokens.values.sum().backward()
    assert not x.grad[mask.hidden].any()
    assert x.grad[~mask.hidden].any()


def test_contrast_is_that_of_transformers(batch):
    """The same codes, contexts and distractors through transformers' logits and cross-entropy."""
    from transformers import Wav2Vec2ForPreTraining

    method = build("wav2vec2", codes=16, code_width=8, width=8, distractors=7).eval()
    mask = method.masker(method.encoder.layout(batch.x), Draw(0, 0, batch.index).fork("mask"))
    encoded = method.encoder(batch.x, mask)
    found = method.contrast(encoded, mask, batch, Draw(0, 0, batch.index))
    from ssl_domains.core.parts.distractors import in_sample, token_draw

    sample, place = mask.hidden.nonzero(as_tuple=True)
    rows, _ = in_sample(sample, 7, token_draw(Draw(0, 0, batch.index).fork("distractors"), sample, place))
    negatives = found.target[rows].permute(1, 0, 2)
    logits = Wav2Vec2ForPreTraining.compute_contrastive_logits(
        found.target[None], negatives, found.context, temperature=0.1
    )
    logits[1:][(found.target == negatives).all(-1)] = -torch.inf
    theirs = nn.functional.cross_entropy(logits.T, torch.zeros(len(sample), dtype=torch.int64))
    torch.testing.assert_close(found.terms.total, theirs, atol=1e-5, rtol=1e-5)


def test_temperature_survives_a_checkpoint(batch):
    method = build("wav2vec2", codes=16, code_width=8, width=8)
    method.after_step(Progress(1000, 2000))
    other = build("wav2vec2", codes=16, code_width=8, width=8)
    other.set_extra_state(method.get_extra_state())
    assert other.quantiser.temperature == method.quantiser.temperature < 2.0


class Frames:
    """A source of 40 recordings whose frames are of 3 kinds."""

    full_batch = False

    def __init__(self):
        rng = np.random.default_rng(0)
        self.kind = rng.integers(0, 3, (40, 30))
        centre = rng.normal(0, 4, (3, 6))
        self.x = torch.from_numpy(centre[self.kind] + rng.normal(0, 0.1, (40, 30, 6))).float()
        self.splits = {"train": np.arange(40)}

    def fetch(self, rows):
        return Batch(self.x[torch.as_tensor(rows)], torch.as_tensor(rows))


def test_clusters_find_kinds_and_a_second_round_begins():
    source = Frames()
    targets = {"name": "clusters", "rounds": [{"codes": 3}, {"epoch": 2, "layer": 1, "codes": 4}]}
    method = build("masked_prediction", "cross_entropy", {}, targets=targets)
    method.before_epoch(source, 0)
    ids = method.targets(source.x, method.encoder)[..., 0].numpy()
    pairs = {(int(a), int(b)) for a, b in zip(ids.ravel(), source.kind.ravel(), strict=True)}
    assert len(pairs) == 3  # one number a kind
    batch = source.fetch([0, 1, 2])
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    assert not any(p.requires_grad for p in method.targets.parameters())
    before = method.targets.get_buffer("centres0").clone()
    first = method.encoder.first.weight.detach().clone()
    with torch.no_grad():
        method.encoder.first.weight += 1.0  # stands for training
    method.before_epoch(source, 2)
    assert method.targets.round == 1
    assert torch.equal(before, method.targets.get_buffer("centres0"))
    torch.testing.assert_close(method.targets.copy.module.first.weight, first + 1.0)
    assert torch.equal(method.encoder.first.weight, first)  # a new model, which learns the old one's clusters
    assert method.restarts() == [2]
    tokens = (
        method.encoder(source.x, layers=True).layers[1] - method.targets.copy(source.x, layers=True).layers[1]
    )
    assert tokens.abs().max() > 0.1
    assert method(batch, Draw(0, 0, batch.index)).parts["code_perplexity"] <= 4.0001


def test_rounds_may_go_on_with_the_encoder_and_are_kept_by_a_checkpoint():
    source = Frames()
    rounds = [{"codes": 3}, {"epoch": 2, "layer": 1, "codes": 4}]
    method = build(
        "masked_prediction",
        "cross_entropy",
        {},
        targets={"name": "clusters", "rounds": rounds, "restart": False},
    )
    assert list(method.restarts()) == []
    method.before_epoch(source, 0)
    with torch.no_grad():
        method.encoder.first.weight += 1.0
    trained = method.encoder.first.weight.detach().clone()
    method.before_epoch(source, 2)
    assert torch.equal(method.encoder.first.weight, trained)
    made = [build("masked_prediction", "cross_entropy", {}, targets={"name": "clusters", "rounds": rounds})
            for _ in range(2)]  # fmt: skip
    with torch.no_grad():
        made[0].encoder.first.weight += 1.0  # trained, and the other one built of another seed
        for parameter in made[1].targets.first.parameters():
            parameter.zero_()
    made[1].load_state_dict(made[0].state_dict())
    for method in made:
        method.before_epoch(source, 2)
    assert torch.equal(made[0].encoder.first.weight, made[1].encoder.first.weight)
    assert made[1].encoder.first.weight.any()


def test_equal_logits_give_ln_k(batch):
    method = build("masked_prediction", "cross_entropy", {}, targets={"codes": 50}, head="linear")
    for parameter in method.heads.parameters():
        nn.init.zeros_(parameter)
    out = method(batch, Draw(0, 0, batch.index))
    assert float(out.loss) == pytest.approx(math.log(50), abs=1e-5)
    assert out.trivial == {"uniform": math.log(50)}


def test_autoregression_reads_the_past_and_compares_with_the_future(batch):
    method = build("autoregressive", "masked_l1", {}, None, ahead=3)
    nn.init.zeros_(method.predict.weight)
    nn.init.zeros_(method.predict.bias)
    out = method(batch, Draw(0, 0, batch.index))
    torch.testing.assert_close(out.loss, batch.x[:, 3:].abs().mean())
    short = Batch(torch.randn(2, 3, 6), torch.arange(2))
    with pytest.raises(Exception, match="ahead is 3"):
        method(short, Draw(0, 0, short.index))


def test_cpc_of_equal_scores_is_ln_k_plus_1(batch):
    given = {"in_batch": False, "normalize": "none", "temperature": 1.0}
    method = build("cpc", "info_nce", given, None, ahead=4, distractors=9)
    for step in method.steps:
        nn.init.zeros_(step.weight)
    out = method(batch, Draw(0, 0, batch.index))
    assert float(out.loss) == pytest.approx(math.log(10), abs=1e-5)


def test_methods_refuse_encoders_that_do_not_fit():
    class Bidirectional(Tiny):
        causal = False

    class Drops(Tiny):
        drops_hidden = True

    registry.scan_core()
    with pytest.raises(ValueError, match="causal"):
        registry.get("method", "cpc")(Bidirectional(), None)
    with pytest.raises(ValueError, match="drops"):
        registry.get("method", "wav2vec2")(Drops(), None, None)
