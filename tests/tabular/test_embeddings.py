"""Numeric embeddings: literal formulas, edges from the data, and use in every encoder."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.embeddings import ColumnTokens, PeriodicNumbers, PiecewiseNumbers, bin_edges
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.mlps import MLP, ResNet
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

KINDS = ["linear", "periodic", "piecewise"]


def spec_of(*quantiles, scaling="standard"):
    """Columns with these quantiles, in units in which mean is 0 and deviation 1."""
    columns = tuple(
        ColumnSpec(f"n{j}", "numeric", f"n{j}", min=q[0], max=q[-1], quantiles=tuple(map(float, q)))
        for j, q in enumerate(quantiles)
    )
    return TableSpec(columns, (), scaling)


def literal_ple(x, edges):
    """Gorishniy et al. 2022, equation 1, entry by entry."""
    last, out = len(edges) - 1, []
    for t in range(1, last + 1):
        if x < edges[t - 1] and t > 1:
            out.append(0.0)
        elif x >= edges[t] and t < last:
            out.append(1.0)
        else:
            out.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return out


def test_piecewise_by_hand():
    net = PiecewiseNumbers(spec_of([0, 1, 3]), 4, 2)
    got = net.encode(torch.tensor([[2.0], [5.0], [-1.0], [0.0], [1.0], [3.0]]))[:, 0]
    want = [[1.0, 0.5], [1.0, 2.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    torch.testing.assert_close(got, torch.tensor(want))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(-20, 20), min_size=5, max_size=5), min_size=1, max_size=3),
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=5),
)
def test_piecewise_equals_the_formula(quantiles, values):
    """Also for columns with repeated quantiles, hence fewer bins than the widest."""
    quantiles = [sorted({*q, 50}) if i == 0 else sorted(q) for i, q in enumerate(quantiles)]
    n_bins = min(len(q) for q in quantiles) - 1
    spec = spec_of(*[q[: n_bins + 1] for q in quantiles])
    net = PiecewiseNumbers(spec, 2, n_bins)
    x = torch.tensor(values)[:, None].expand(-1, len(quantiles))
    got = net.encode(x)
    for j, edges in enumerate(bin_edges(spec, n_bins)):
        for b in range(len(x)):
            want = literal_ple(float(x[b, j]), [float(e) for e in edges])
            torch.testing.assert_close(got[b, j, : len(want)], torch.tensor(want))
            assert not got[b, j, len(want) :].any()


def test_edges_are_quantiles_of_the_train_rows_in_the_tables_scaling():
    values = np.random.default_rng(0).exponential(size=5000)
    frame = pd.DataFrame({"x": values, "half": np.where(values > 0.7, values, 0.0)})
    for scaling in ("standard", "minmax", "quantile"):
        source = Tabular().open(frame, scaling=scaling)
        x = source.fetch(source.splits["train"]).x["numeric"].numpy()
        edges, repeated = bin_edges(source.spec, 8)
        want = np.quantile(x[:, 0], np.linspace(0, 1, 9))
        np.testing.assert_allclose(edges, want, atol=0.02 if scaling != "quantile" else 0.4)
        assert len(repeated) == 5  # the lower half of the ranks is one value
        counts = np.histogram(x[:, 0], edges)[0]
        np.testing.assert_allclose(counts / len(x), 1 / 8, atol=0.01)


def test_bins_between_the_fitted_quantiles():
    edges = bin_edges(spec_of([0, 4, 6, 7, 9]), 3)[0]
    np.testing.assert_allclose(edges, [0, 4 + 2 / 3, 6 + 2 / 3, 9], rtol=1e-6)


def test_a_column_that_stands_still_has_one_bin():
    np.testing.assert_array_equal(bin_edges(spec_of([2, 2, 2]), 2)[0], [2, 3])


def test_periodic_by_hand_and_by_formula():
    torch.manual_seed(0)
    net = PeriodicNumbers(spec_of([0, 1], [0, 1]), 3, 1, 1.0)
    with torch.no_grad():
        net.frequencies.copy_(torch.tensor([[0.25], [0.5]]))
    waves = net.waves(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(waves[0], torch.tensor([[1.0, 0.0], [0.0, -1.0]]), atol=1e-6, rtol=0)
    x = torch.randn(4, 2)
    for b in range(4):
        for j in range(2):
            angle = 2 * math.pi * float(net.frequencies.detach()[j, 0]) * float(x[b, j])
            v = torch.tensor([math.sin(angle), math.cos(angle)])
            want = torch.relu(v @ net.linear.weight[j] + net.linear.bias[j])
            torch.testing.assert_close(net(x)[b, j], want)


def test_frequencies_start_with_deviation_sigma():
    torch.manual_seed(0)
    net = PeriodicNumbers(spec_of(*[[0, 1]] * 20), 2, 500, 0.3)
    assert net.frequencies.detach().std().item() == pytest.approx(0.3, rel=0.03)


@pytest.fixture
def source(frame):
    return Tabular().open(frame, label="price")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [FTTransformer, MLP, ResNet])
def test_every_encoder_takes_every_embedding(source, make, kind):
    torch.manual_seed(0)
    net = make(source.spec, width=16, depth=1, numeric=kind, n_frequencies=4, sigma=1.0, n_bins=8)
    x = source.fetch(np.arange(30)).x
    assert x["missing"].any()
    out = net(x)
    assert out.tokens.values.shape == (30, 7, 16)
    (out.pooled.square().sum() + out.tokens.values[..., 0].sum()).backward()
    for name, parameter in net.tokens.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name != "embedding.weight":
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_missing_numbers_hide_their_value(source, kind):
    tokens = ColumnTokens(source.spec, 8, kind, 4, 1.0, 8)
    x = source.fetch(np.arange(10)).x
    x["missing"][3, 1] = True
    before = tokens(x)
    x["numeric"][3, 1] += 2.0
    assert torch.equal(tokens(x), before)
    torch.testing.assert_close(before[3, 1], tokens.missing[1] + tokens.bias[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_encoder_embeds_the_same(source, kind):
    """Edges come back with the spec, all else with the weights."""
    net = MLP(source.spec, width=8, depth=1, numeric=kind, n_bins=8).eval()
    spec = TableSpec.from_dict(source.spec.to_dict())
    again = MLP(spec, width=8, depth=1, numeric=kind, n_bins=8).eval()
    again.load_state_dict(net.state_dict())
    x = source.fetch(np.arange(10)).x
    assert torch.equal(net(x).pooled, again(x).pooled)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_without_numbers(kind):
    frame = pd.DataFrame({"a": list("xyz") * 10, "b": list("uvwuv") * 6})
    source = Tabular().open(frame)
    assert MLP(source.spec, width=8, numeric=kind)(source.fetch([0, 1]).x).pooled.shape == (2, 8)


def test_refused_options(source):
    with pytest.raises(ValueError, match=r"encoder.numeric"):
        ColumnTokens(source.spec, 8, "fourier")
    with pytest.raises(ValueError, match=r"encoder.n_bins must lie in \[1, 64\], got 65"):
        MLP(source.spec, numeric="piecewise", n_bins=65)
    with pytest.raises(ValueError, match=r"encoder.sigma"):
        MLP(source.spec, numeric="periodic", sigma=0.0)
    with pytest.raises(DataError, match="'n0' has none"):
        bin_edges(TableSpec((ColumnSpec("n0", "numeric", "n0"),), ()), 4)
