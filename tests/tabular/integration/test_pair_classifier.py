"""The encoder of texts, the comparison of two rows, and SSACL's loss."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.batch import Mask
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.objectives.classification import BinaryCrossEntropy
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.integration.embedding import HashedNgrams
from ssl_domains.tabular.integration.encoder import TextCells
from ssl_domains.tabular.integration.method import PairClassification
from ssl_domains.tabular.integration.views import TextPerturbations


@pytest.fixture
def source(people):
    return Tabular().open(people.drop(columns="person"), cells="text", valid=0.0, test=0.0)


@pytest.fixture
def encoder(source):
    torch.manual_seed(0)
    return TextCells(source.spec, width=16, column_width=8, hidden=(32, 16), dropout=0.0)


def rows_of(encoder, batch):
    encoded = encoder(batch.x)
    return encoder.rows(encoded.tokens.values, batch.x["missing"])


def method_of(encoder, **options):
    views = TextPerturbations(positives=options.pop("positives", 2))
    return PairClassification(encoder, BinaryCrossEntropy(), views, **{"negatives": 5, **options})


def test_tokens_are_unit_vectors_of_the_present_cells(encoder, source):
    batch = source.fetch([0, 130, 150])
    encoded = encoder(batch.x)
    norms = encoded.tokens.values.norm(dim=-1)
    assert torch.allclose(norms, (~batch.x["missing"]).float(), atol=1e-5)
    hand = encoded.tokens.values[1].sum(0) / (~batch.x["missing"][1]).sum()
    assert torch.allclose(encoded.pooled[1], hand, atol=1e-6)
    alone = encoder(source.fetch([130]).x).pooled[0]
    assert torch.allclose(alone, encoded.pooled[1], atol=1e-6)


def test_similar_texts_are_near_before_any_training(source):
    text = HashedNgrams(source.spec.idf)

    def vector(word):
        return text(torch.tensor([[ord(c) for c in word.ljust(12, "\0")]]))[0]

    base = vector("church lane")
    assert base @ vector("chruch lane") > base @ vector("mill road") + 0.3
    assert base @ vector("church ln") > 0.4
    assert base @ base == pytest.approx(1.0, abs=1e-5)


def test_rows_may_change_places(encoder, source):
    rows = rows_of(encoder, source.fetch(np.arange(30)))
    a, b = rows.take(torch.arange(15)), rows.take(torch.arange(15, 30))
    encoder.matcher.attention.bias.data.normal_()
    assert torch.allclose(encoder.match(a, b), encoder.match(b, a), atol=1e-5)


def test_missing_cells_tell_nothing(encoder, source):
    batch = source.fetch(np.arange(20))
    missing = batch.x["missing"].clone()
    missing[:, 1] = True
    tokens = encoder(batch.x).tokens.values
    other = tokens.clone()
    other[:, 1] = torch.randn_like(other[:, 1])
    plain = encoder.rows(tokens, missing)
    assert torch.equal(
        encoder.match(plain, plain.take(torch.arange(20).flip(0))),
        encoder.match(encoder.rows(other, missing), plain.take(torch.arange(20).flip(0))),
    )
    weights = encoder.matcher.attention.weights(plain, plain)
    assert not weights[:, :, [1, 5]].any()
    assert torch.allclose(weights.sum(-1), torch.ones(20, 8), atol=1e-5)


def test_a_row_of_nothing_is_no_nan(encoder, source):
    tokens = encoder(source.fetch([0, 1]).x).tokens.values.detach().requires_grad_()
    rows = encoder.rows(tokens, torch.ones(2, 4, dtype=torch.bool))
    logits = encoder.match(rows, rows)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert torch.isfinite(tokens.grad).all()
    assert not encoder(
        {"chars": torch.zeros(1, 4, 3, dtype=torch.int32), "missing": torch.ones(1, 4, dtype=torch.bool)}
    ).pooled.any()


def test_a_mask_hides_cells(encoder, source):
    x = source.fetch([0, 1]).x
    hidden = torch.tensor([[True, False, False, False]] * 2)
    masked, without = encoder(x, Mask(hidden)), {**x, "missing": x["missing"] | hidden}
    assert torch.equal(masked.pooled, encoder(without).pooled)
    predicted = encoder.predictor(encoder.target_width)(masked, Mask(hidden), x)
    assert predicted.shape == encoder.targets(x).select(Mask(hidden)).shape


def test_loss_is_the_formula(encoder, source):
    """``-1/(P+Q) [sum log p + sum log(1 - p)]`` row by row, in a loop over pairs, plus half L_adv."""
    method = method_of(encoder, epsilon=0.0)
    batch, draw = source.fetch(np.arange(12)), Draw(3, 4, torch.arange(12))
    out = method(batch, draw)
    draw = Draw(3, 4, torch.arange(12))
    views = method.views(batch, draw.fork("views"))
    other, equal = method._negatives(batch.x, encoder(batch.x).pooled, draw.fork("negatives"))
    assert not equal.any()
    clean = rows_of(encoder, batch)
    total = 0.0
    for i in range(12):
        one = clean.take(torch.tensor([i]))
        terms = []
        for view in views[1:]:
            tokens = encoder(view.x).tokens.values[i : i + 1]
            logit = encoder.match(one, encoder.rows(tokens, view.x["missing"][i : i + 1]))
            terms.append(torch.log(torch.sigmoid(logit)))
        for j in other[i].tolist():
            assert j != i
            terms.append(torch.log(1 - torch.sigmoid(encoder.match(one, clean.take(torch.tensor([j]))))))
        total = total - sum(terms) / (2 + 5) / 12
    assert float(out.parts["pairs"]) == pytest.approx(float(total.detach()), rel=1e-4)
    own = F.softplus(-encoder.match(clean, clean)).mean()  # epsilon 0: the clean positive loss
    assert float(out.parts["adversarial"]) == pytest.approx(float(own.detach()), rel=1e-4)
    assert float(out.loss) == pytest.approx(float((total + 0.5 * own).detach()), rel=1e-4)


def test_trivial_values(encoder, source):
    for module in encoder.matcher.mlp[-1:]:
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    method = method_of(encoder)
    out = method(source.fetch(np.arange(12)), Draw(0, 0, torch.arange(12)))
    assert float(out.parts["pairs"]) == pytest.approx(math.log(2), abs=1e-5)
    assert out.trivial["uniform"] == pytest.approx(1.5 * math.log(2))
    ps = np.linspace(0.001, 0.999, 5000)
    share = 2 / 7
    best = (-(share + 0.5) * np.log(ps) - (1 - share) * np.log(1 - ps)).min()
    assert out.trivial["prior"] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_adversarial_pairs_are_harder(encoder, source, steps):
    method = method_of(encoder, epsilon=0.05, adversarial_steps=steps)
    out = method(source.fetch(np.arange(60)), Draw(0, 0, torch.arange(60)))
    assert out.parts["adversarial_gain"] > 0
    assert (
        method_of(encoder, adversarial_weight=0.0)(source.fetch(np.arange(6)), Draw(0, 0, torch.arange(6)))
        .parts.keys()
        .isdisjoint({"adversarial", "adversarial_gain"})
    )


def test_the_adversary_leaves_no_gradient_behind(encoder, source):
    """The gradient of the whole loss is that of the two losses with d as a constant."""
    batch = source.fetch(np.arange(16))
    method = method_of(encoder, epsilon=0.05)
    method(batch, Draw(0, 0, batch.index))
    assert all(p.grad is None for p in method.parameters())
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_equal_rows_are_no_negatives(people):
    frame = pd.concat([people.iloc[:3]] * 4).drop(columns="person")
    source = Tabular().open(frame, cells="text", valid=0.0, test=0.0)
    torch.manual_seed(0)
    encoder = TextCells(source.spec, width=8, column_width=4, hidden=(8,), dropout=0.0)
    method = method_of(encoder, negatives=8)
    batch = source.fetch(np.arange(12))
    chosen, equal = method._negatives(batch.x, encoder(batch.x).pooled, Draw(0, 0, batch.index))
    assert not equal.any(), "8 others differ, and they are the 8 that are chosen"
    assert not (chosen % 3 == torch.arange(12)[:, None] % 3).any()
    out = method(batch, Draw(0, 0, batch.index))
    assert float(out.parts["equal_rows"]) == pytest.approx(3 / 12)
    everything = method_of(encoder, negatives=11)(batch, Draw(0, 0, batch.index))
    assert float(everything.parts["pairs"]) == pytest.approx(
        float(_weighted(method_of(encoder, negatives=8), batch)), rel=0.2
    )


def _weighted(method, batch):
    return method(batch, Draw(0, 0, batch.index)).parts["pairs"]


def test_near_negatives_are_the_nearest(encoder, source):
    batch = source.fetch(np.arange(40))
    pooled = encoder(batch.x).pooled
    method = method_of(encoder, negatives=6, near_negatives=0.5)
    chosen, _ = method._negatives(batch.x, pooled, Draw(0, 0, batch.index))
    similarity = (pooled @ pooled.T).fill_diagonal_(-2.0)
    nearest = similarity.topk(3, dim=1).indices
    assert all(set(n.tolist()) <= set(c.tolist()) for n, c in zip(nearest, chosen, strict=True))
    assert all(len(set(c.tolist())) == 6 for c in chosen)


def test_learns_to_tell_pairs(source):
    torch.manual_seed(0)
    encoder = TextCells(source.spec, width=32, column_width=16, hidden=(64, 32), dropout=0.1)
    method = method_of(encoder, positives=3, negatives=10)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for step in range(40):
        rows = (np.arange(32) * 7 + step * 13) % len(source)
        batch = source.fetch(rows)
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, 40))
    encoder.eval()
    rows = rows_of(encoder, source.fetch(np.arange(180)))
    with torch.no_grad():
        copies = encoder.match(rows.take(torch.arange(60)), rows.take(torch.arange(120, 180)))
        others = encoder.match(rows.take(torch.arange(60)), rows.take(torch.arange(60, 120)))
    assert (copies > 0).float().mean() > 0.9
    assert (others < 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("method", "options", "objective", "objective_options"),
    [
        ("joint_embedding", {"projector": [16, 16]}, "nt_xent", {}),
        ("self_distillation", {"projector": [16, 16], "predictor": [16]}, "cosine_regression", {}),
        ("pretext_task", {"spec": True}, "binary_cross_entropy", {}),
        ("masked_reconstruction", {"masker": True}, "masked_mse", {}),
    ],
)
def test_core_methods_train_on_texts(encoder, source, method, options, objective, objective_options):
    registry.scan_core()
    given = dict(options)
    if given.pop("masker", False):
        given["masker"] = registry.get("mask", "random")()
    else:
        given["views"] = TextPerturbations(positives=1)
    if given.pop("spec", False):
        given["spec"] = source.spec
    built = registry.get("method", method)(
        encoder, registry.get("objective", objective)(**objective_options), **given
    )
    batch = source.fetch(np.arange(32))
    out = built(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert encoder.project.weight.grad.abs().sum() > 0


def test_wrong_parts(source):
    numbers = Tabular().open(pd.DataFrame({"a": np.arange(20) % 7, "b": np.arange(20) % 3}))
    with pytest.raises(ValueError, match=r"data.cells: text"):
        TextCells(numbers.spec)
    plain = FTTransformer(numbers.spec, width=8, depth=1)
    with pytest.raises(ValueError, match="use text_cells"):
        PairClassification(plain, BinaryCrossEntropy(), TextPerturbations())
    encoder = TextCells(source.spec, width=8, hidden=(8,))
    for options in ({"negatives": 0}, {"near_negatives": 2.0}, {"epsilon": -1.0}, {"adversarial_steps": 0}):
        with pytest.raises(ValueError, match=r"method."):
            method_of(encoder, **options)
    assert "set train.batch_size" in " ".join(method_of(encoder).check(batch_size=1, n_samples=9))


def share(rank, state, frame):
    source = Tabular().open(frame, cells="text", valid=0.0, test=0.0)
    encoder = TextCells(source.spec, width=8, column_width=4, hidden=(8,), dropout=0.0)
    encoder.load_state_dict(state)
    method = method_of(encoder)
    batch = source.fetch(np.arange(16)[rank * 8 : rank * 8 + 8])
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    return out.loss.detach(), encoder.project.weight.grad


def test_two_processes_return_the_mean_over_all_pairs(people, tmp_path, monkeypatch):
    """Negatives come from a process's own rows, so the joined loss is the mean of the two."""
    frame = people.drop(columns="person").iloc[:16]
    source = Tabular().open(frame, cells="text", valid=0.0, test=0.0)
    torch.manual_seed(0)
    state = TextCells(source.spec, width=8, column_width=4, hidden=(8,), dropout=0.0).state_dict()
    alone = [share(rank, state, frame) for rank in range(2)]
    together = run_processes(share, 2, state, frame)
    wanted = (alone[0][0] + alone[1][0]) / 2
    assert torch.allclose(together[0][0], wanted, atol=1e-5)
    assert torch.allclose(together[1][0], wanted, atol=1e-5)
    gradient = (together[0][1] + together[1][1]) / 2
    assert torch.allclose(gradient, (alone[0][1] + alone[1][1]) / 2, atol=1e-5)
