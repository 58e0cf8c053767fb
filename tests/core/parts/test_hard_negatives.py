"""MoCHi's mixtures: where they lie, how hard they are, whose negatives they are made of."""

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.parts.hard_negatives import mix_hard_negatives
from ssl_domains.core.random import Draw


def unit(n, d, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def draw(b=8, step=0):
    return Draw(0, step, torch.arange(b))


def mix(query, pool, n=16, s=64, q=64, step=0, **options):
    return mix_hard_negatives(
        query, pool, draw(len(query), step), hardest=n, pairs=s, with_query=q, **options
    )


def test_unit_norm_and_own_span():
    """Each mixture lies in the span of its OWN query's hard negatives (and of that query)."""
    query, pool = unit(6, 24), unit(200, 24, 1)
    found = mix(query, pool, n=3, s=20, q=20)
    torch.testing.assert_close(found.values.norm(dim=2), torch.ones(6, 40))
    for b in range(6):
        parents = pool[found.hardest[b]]  # [3, D]
        for values, basis in (
            (found.values[b, :20], parents),
            (found.values[b, 20:], torch.cat([parents, query[b : b + 1]])),
        ):
            weights = torch.linalg.lstsq(basis.T, values.T).solution
            torch.testing.assert_close((basis.T @ weights).T, values, rtol=0, atol=1e-4)
            assert weights.min() > -1e-3  # a mixture, not a difference


def test_top_n_is_per_query_and_sorted():
    query, pool = unit(5, 8), unit(300, 8, 1)
    found = mix(query, pool, n=7, chunk_size=2)
    expected = (query @ pool.T).topk(7, dim=1)
    assert torch.equal(found.hardest, expected.indices)
    torch.testing.assert_close(found.similarity, expected.values)
    assert len({tuple(row.tolist()) for row in found.hardest}) == 5


def test_the_query_has_less_than_half_and_pairs_differ():
    query = torch.tensor([[1.0, 0, 0]])
    pool = torch.tensor([[0.0, 1, 0], [0.0, 0, 1]])
    found = mix(query, pool, n=2, s=500, q=500)
    pairs, with_query = found.values[0, :500], found.values[0, 500:]
    assert (pairs[:, 1:] > 0).all()  # never an entry with itself
    assert pairs[:, 0].abs().max() == 0
    share = with_query[:, 0] / with_query.sum(dim=1)
    assert 0 < share.min() < 0.02
    assert 0.48 < share.max() < 0.5
    assert with_query[:, 0].max() < 0.7072  # one half would give 1 / sqrt 2


def test_half_of_an_orthogonal_pair_is_at_45_degrees(monkeypatch):
    monkeypatch.setattr(
        Draw, "uniform", lambda self, *shape, low=0.0, high=1.0: torch.full((1, *shape), high)
    )
    found = mix(torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1.0]]), n=1, s=0, q=3)
    torch.testing.assert_close(found.values[0, :, 0], torch.full((3,), 0.5**0.5))


def test_harder_and_harder():
    """Random queue < top N < mixtures of two < mixtures with the query (16 dimensions)."""
    query, pool = unit(32, 16), unit(1024, 16, 1)
    found = mix(query, pool, n=32, s=256, q=256)
    cosine = torch.einsum("bsd,bd->bs", found.values, query)
    means = [(query @ pool.T).mean(), found.similarity.mean(), cosine[:, :256].mean(), cosine[:, 256:].mean()]
    assert means == sorted(means)
    assert means[1] == pytest.approx(0.45, abs=0.1)
    assert means[3] > means[2] + 0.05
    similar = torch.einsum("bnd,bd->bn", pool[found.hardest], query)
    assert (cosine[:, 256:] >= similar.amin(dim=1, keepdim=True) - 1e-6).all()


def test_excluded_rows_are_never_parents():
    query, pool = unit(4, 6), torch.cat([unit(4, 6), unit(3, 6, 2)])
    exclude = torch.zeros(4, 7, dtype=torch.bool)
    exclude[torch.arange(4), torch.arange(4)] = True
    exclude[0, :6] = True  # one usable row only: its mixtures are that row
    found = mix(query, pool, n=7, s=50, q=0, exclude=exclude)
    torch.testing.assert_close(found.values[0], pool[6].expand(50, -1))
    assert torch.isinf(found.similarity[:, -1]).all()
    assert (torch.einsum("bsd,bd->bs", found.values, query) < 0.999).all()


def test_nothing_has_a_gradient_and_the_draw_decides():
    query = unit(4, 6).requires_grad_()
    found = mix(query, unit(50, 6, 1))
    assert not found.values.requires_grad
    torch.testing.assert_close(found.values, mix(query, unit(50, 6, 1)).values, rtol=0, atol=0)
    assert not torch.allclose(found.values, mix(query, unit(50, 6, 1), step=1).values)
    alone = mix_hard_negatives(
        query[2:3], unit(50, 6, 1), Draw(0, 0, torch.tensor([2])), hardest=16, pairs=64, with_query=64
    )
    torch.testing.assert_close(alone.values[0], found.values[2])  # whatever else is in the batch
