"""Denoising and VIME, SubTab, SAINT: losses by literal formulas, who gets gradient, what is refused."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Mask
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.objectives.contrastive import InfoNCE, NTXent
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.tabular.denoising import Denoising
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.mlps import MLP, ResNet
from ssl_domains.tabular.objectives import MixedReconstruction
from ssl_domains.tabular.saint import SAINT
from ssl_domains.tabular.subtab import SubTab, column_subsets
from ssl_domains.tabular.views import ColumnCorruption, RowCutMix, changed_cells

ENCODERS = {
    "ft_transformer": (FTTransformer, {"width": 16, "depth": 1, "heads": 2, "ffn": 16, "dropout": 0.0}),
    "flatten": (FTTransformer, {"width": 16, "depth": 1, "ffn": 16, "dropout": 0.0, "pooled": "flatten"}),
    "mlp": (MLP, {"width": 16, "cell_width": 4, "dropout": 0.0}),
    "resnet": (ResNet, {"width": 16, "depth": 1, "cell_width": 4, "dropout": 0.0}),
}


@pytest.fixture
def source(frame):
    return Tabular().open(frame, label="price")


def encoder_of(source, name):
    torch.manual_seed(0)
    cls, options = ENCODERS[name]
    return cls(source.spec, **options)


def denoising(source, encoder, **options):
    width = Denoising.objective_width(encoder, options)
    objective = MixedReconstruction(source.spec, width)
    return Denoising(encoder, objective, ColumnCorruption(0.5, per_cell=True), **options)


def vime(source, encoder):
    return denoising(source, encoder, mask_weight=1.0, reconstruction_weight=2.0)


def subtab(source, encoder, **options):
    options = {"projector": (12, 8), "decoder": (10,), "n_subsets": 3, "overlap": 0.75, **options}
    return SubTab(encoder, NTXent(0.1), ColumnCorruption(0.3, per_cell=True), source.spec, **options)


def saint(source, encoder, **options):
    options = {"projector": (12, 8), "decoder": (10,), **options}
    contrast = InfoNCE(0.7, symmetric=True, normalize="none")
    return SAINT(encoder, contrast, RowCutMix(0.3), source.spec, **options)


METHODS = {"denoising": denoising, "vime": vime, "subtab": subtab, "saint": saint}


def started(source, make, name="ft_transformer", rows=24, **options):
    method = make(source, encoder_of(source, name), **options)
    method.before_training(source)
    batch = source.fetch(np.arange(rows))
    return method, batch, Draw(3, 5, batch.index)


def literal_reconstruction(loss, latents, targets):
    """``latents [B, N, H]`` cell by cell: mean squared error, mean cross-entropy."""
    errors, entropies = [], []
    for row, cells in zip(latents, targets, strict=True):
        for z, (value, column) in zip(row, cells, strict=True):
            j = int(column)
            if j < loss.n_numeric and not torch.isnan(value):
                errors.append((z @ loss.weight[j] + loss.bias[j] - value) ** 2)
            if j >= loss.n_numeric and value >= 1:
                logits = loss.classifiers[j - loss.n_numeric](z)
                entropies.append(F.cross_entropy(logits, value.long() - 1))
    return torch.stack(errors).mean() + torch.stack(entropies).mean()


def literal_nce(a, b, temperature):
    """InfoNCE from a to b, pair by pair."""
    logits = a @ b.T / temperature
    return torch.stack([-torch.log_softmax(row, 0)[i] for i, row in enumerate(logits)]).mean()


def test_rows_are_the_cells_of_one_latent(source):
    torch.manual_seed(1)
    loss = MixedReconstruction(source.spec, 6)
    batch = source.fetch(np.arange(25))
    targets = encoder_of(source, "mlp").targets(batch.x).values
    assert targets[..., 0].isnan().any()
    assert (targets[:, 5:, 0] == 0).any()  # a missing category
    latent = torch.randn(25, 6, requires_grad=True)
    rows = loss.rows(latent, targets)
    every = loss(latent[:, None].expand(-1, targets.shape[1], -1).flatten(0, 1), targets.flatten(0, 1))
    literal = literal_reconstruction(loss, latent[:, None].expand(-1, targets.shape[1], -1), targets)
    for other in (every.total, literal):
        torch.testing.assert_close(rows.total, other)
    torch.testing.assert_close(rows.parts, every.parts)
    got, want = (torch.autograd.grad(t, [latent, *loss.parameters()], retain_graph=True)
                 for t in (rows.total, every.total))  # fmt: skip
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_changed_cells(source):
    x = source.fetch(np.arange(30)).x
    other = {key: value.clone() for key, value in x.items()}
    assert not changed_cells(x, other).any()
    assert x["missing"][10, 0]
    other["numeric"][1, 2] += 1.0
    other["missing"][2, 1] = True
    other["categorical"][3, 0] = (other["categorical"][3, 0] + 1) % 3
    other["missing"][10, 0] = False
    assert changed_cells(x, other).nonzero().tolist() == [[1, 2], [2, 1], [3, 5], [10, 0]]


def test_vime_by_formula(source):
    method, batch, draw = started(source, vime)
    view = method.views(batch, draw.fork("views"))[-1]
    z = method.encoder(view.x).pooled
    differs = torch.cat(
        [
            (view.x["missing"] != batch.x["missing"]) | (view.x["numeric"] != batch.x["numeric"]),
            view.x["categorical"] != batch.x["categorical"],
        ],
        dim=1,
    )
    assert (differs <= view.params["corrupted"]).all()
    assert differs.sum() < view.params["corrupted"].sum()  # a flag that drew its own value again
    told = torch.sigmoid(z @ method.mask_head.weight.T + method.mask_head.bias)
    mask = -torch.where(differs, told, 1 - told).log().mean()
    cells = method.encoder.targets(batch.x).values
    rebuilt = literal_reconstruction(method.objective, z[:, None].expand(-1, cells.shape[1], -1), cells)
    torch.testing.assert_close(method(batch, draw).loss, mask + 2.0 * rebuilt)


def test_denoising_decodes_the_clean_row_and_says_its_trivial_value(source):
    method, batch, draw = started(source, denoising, decoder=(12, 9), reconstruction_weight=3.0)
    view = method.views(batch, draw.fork("views"))[-1]
    z = method.decoder(method.encoder(view.x).pooled)
    assert z.shape[1] == method.objective.width == 9
    out = method(batch, draw)
    cells = method.encoder.targets(batch.x).values
    want = literal_reconstruction(method.objective, z[:, None].expand(-1, cells.shape[1], -1), cells)
    torch.testing.assert_close(out.loss, 3.0 * want)
    assert out.trivial["constant"] == pytest.approx(3.0 * method.objective._trivial)
    assert method.mask_head is None


@pytest.mark.parametrize(
    ("n", "k", "overlap", "want"),
    [
        (8, 4, 0.5, [[0, 1, 2], [1, 2, 3], [3, 4, 5], [5, 6, 7]]),
        (8, 4, 0.0, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (9, 3, 0.75, [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [4, 5, 6, 7, 8]]),
        (3, 3, 0.75, [[0], [1], [2]]),
        (3, 2, 1.0, [[0, 1, 2], [0, 1, 2]]),
    ],
)
def test_column_subsets(n, k, overlap, want):
    assert column_subsets(n, k, overlap).tolist() == want


def test_subsets_cover_all_columns_and_equal_the_released_windows():
    for n in range(2, 40):
        for k in range(2, min(n, 8) + 1):
            for overlap in (0.0, 0.4, 0.75, 1.0):
                subsets = column_subsets(n, k, overlap)
                assert set(subsets.flatten().tolist()) == set(range(n))
                if n % k == 0:  # start and stop of the authors' windows
                    size, shared = n // k, int(overlap * n / k)
                    first = [0] + [i * size - shared for i in range(1, k)]
                    assert subsets[:, 0].tolist() == first
                    assert subsets.shape[1] == size + shared


@pytest.mark.parametrize("name", ["ft_transformer", "mlp"])
def test_subtab_by_formula(source, name):
    weights = {"reconstruction_weight": 0.7, "contrast_weight": 1.3, "distance_weight": 0.4}
    method, batch, draw = started(source, subtab, name, rows=8, **weights)
    cells, z, rebuilt = method.encoder.targets(batch.x).values, [], []
    for k, columns in enumerate(column_subsets(7, 3, 0.75).tolist()):
        view = method.views(batch, draw.fork(f"views {k}"))[-1]
        hidden = torch.tensor([[j not in columns for j in range(7)]]).expand(8, -1)
        pooled = method.encoder(view.x, Mask(hidden)).pooled
        z.append(F.normalize(method.projector(pooled), dim=1))
        latent = method.decoder(pooled)[:, None].expand(-1, 7, -1)
        rebuilt.append(literal_reconstruction(method.reconstruction, latent, cells))
    contrast, distance = [], []
    for a, b in combinations(z, 2):
        both = torch.cat([a, b])
        logits = (both @ both.T / 0.1).masked_fill(torch.eye(16, dtype=torch.bool), -torch.inf)
        contrast.append(F.cross_entropy(logits, torch.arange(16).roll(8)))
        distance.append(((a - b) ** 2).sum(1).mean())
    want = sum(w * torch.stack(t).mean() for w, t in ((0.7, rebuilt), (1.3, contrast), (0.4, distance)))
    out = method(batch, draw)
    torch.testing.assert_close(out.loss, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.parts["distance"], torch.stack(distance).mean())


@pytest.mark.parametrize("name", ["ft_transformer", "mlp"])
def test_subtab_encodes_its_columns_alone(source, name):
    method, batch, draw = started(source, subtab, name)
    method.views.rate = 0.0
    method.encoder.eval()
    before = [method._encode(batch, draw, k).pooled for k in range(3)]
    batch.x["numeric"][:, 4] += 1.0
    for k, columns in enumerate(method.subsets.tolist()):
        same = torch.equal(method._encode(batch, draw, k).pooled, before[k])
        assert same == (4 not in columns)


def test_noise_of_subsets_is_their_own(source):
    method, batch, draw = started(source, subtab)
    drawn = [method.views(batch, draw.fork(f"views {k}"))[-1].params["corrupted"] for k in range(3)]
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("name", ["flatten", "mlp"])
def test_saint_by_formula(source, name):
    method, batch, draw = started(source, saint, name, rows=10, alpha=0.6)
    view = method.views(batch, draw.fork("views"))[-1]
    mixup = draw.fork("mixup")
    partner = (torch.arange(10) + 1 + mixup.randint(9)) % 10
    assert (partner != torch.arange(10)).all()
    cells = method.encoder.tokens(view.x)
    mixed = method.encoder.encode(torch.stack([0.6 * cells[i] + 0.4 * cells[partner[i]] for i in range(10)]))
    a = method.clean_head(method.encoder(batch.x).pooled)
    b = method.mixed_head(mixed.pooled)
    contrast = (literal_nce(a, b, 0.7) + literal_nce(b, a, 0.7)) / 2
    latents = method.decoder(mixed.tokens.values)
    rebuilt = literal_reconstruction(method.reconstruction, latents, method.encoder.targets(batch.x).values)
    torch.testing.assert_close(method(batch, draw).loss, 0.5 * contrast + 10.0 * rebuilt)


def test_without_mixup_saint_sees_the_view(source):
    method, batch, draw = started(source, saint, alpha=1.0)
    cells = method.encoder.tokens(batch.x)
    assert torch.equal(method._mixed(cells, draw), cells)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("case", METHODS)
def test_every_method_trains_every_encoder(source, case, name):
    method, batch, _ = started(source, METHODS[case], name)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            without = {n for n, p in method.named_parameters() if p.grad is None}
            assert without <= ({"encoder.mask_token"} if case != "subtab" else set()), without
            assert not any(value.requires_grad for value in [*out.parts.values(), *out.stages.values()])
        optimizer.step()
        method.after_step(Progress(step + 1, 25))
        losses.append(float(out.loss.detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("case", ["denoising", "vime", "subtab"])
def test_a_row_counts_the_same_in_any_batch(source, case):
    """Nothing but the contrast depends on the others: one row's pooled vector is its own."""
    method, batch, draw = started(source, METHODS[case], "mlp")
    method.eval()
    seen = method(batch, draw).stages["encoder"]
    part = source.fetch(np.array([7, 3]))
    torch.testing.assert_close(method(part, Draw(3, 5, part.index)).stages["encoder"], seen[[7, 3]])


def shared_loss(rank, case, frame, world):
    torch.set_num_threads(1)
    source = Tabular().open(frame, label="price")
    method = METHODS[case](source, encoder_of(source, "mlp"))
    method.before_training(source)
    rows = np.arange(24).reshape(world, -1)[rank]
    batch = source.fetch(rows)
    loss = method(batch, Draw(3, 5, batch.index)).loss
    loss.backward()
    grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("case", ["vime", "subtab"])
def test_two_processes_equal_one(frame, case):
    """SAINT's partners are drawn within a process, so it has no such equality."""
    want, grads = shared_loss(0, case, frame, 1)
    (a, first), (b, second) = run_processes(shared_loss, 2, case, frame, 2)
    torch.testing.assert_close(a, want)
    torch.testing.assert_close(b, want)
    for name, grad in grads.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, grad, rtol=1e-4, atol=1e-6, msg=name)


def test_refused_options(source):
    encoder = encoder_of(source, "mlp")
    views = ColumnCorruption()
    with pytest.raises(ValueError, match="objective: mixed_columns"):
        Denoising(encoder, MaskedMSE(), views)
    with pytest.raises(ValueError, match=r"method.mask_weight"):
        denoising(source, encoder, mask_weight=-1.0)
    with pytest.raises(ValueError, match="both 0"):
        denoising(source, encoder, reconstruction_weight=0.0)
    with pytest.raises(ValueError, match="between 2 and the table's 7 columns, got 8"):
        subtab(source, encoder, n_subsets=8)
    with pytest.raises(ValueError, match=r"method.overlap"):
        subtab(source, encoder, overlap=1.5)
    with pytest.raises(ValueError, match=r"method.alpha"):
        saint(source, encoder, alpha=-0.1)
