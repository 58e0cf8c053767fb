"""Partition-aware contrast (2006.10511): values by hand, invariances, who gets gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw
from ssl_domains.medical3d.partitions import parts_of
from ssl_domains.medical3d.regions import Regions, neighbours, region_centres

PART, VOLUME = torch.arange(4).repeat(3), torch.arange(3).repeat_interleave(4)


def make(source, variant="partition", share=1.0, **options):
    torch.manual_seed(0)
    encoder = registry.get("encoder", "monai_unet")(
        source.spec, features=(4, 4, 8, 8), norm="batch", decoder=share < 1
    )
    objective = registry.get("objective", "info_nce")(0.1, intra=True, exclude_positives=True)
    views = registry.get("views", "volume_augment")(source.spec, family="global_local")
    method = registry.get("method", "global_local")
    return method(
        encoder, objective, views, source.spec, variant=variant, global_share=share, hidden=16, width=8,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def partition(slices):
    return make(slices)


@pytest.fixture(scope="module")
def cross(slices):
    return make(slices, "cross")


def test_equal_embeddings_give_the_papers_value(partition, cross):
    same = torch.ones(12, 8)
    # 3 sets x 12 slices: 27 of them are of other partitions; two positives an item.
    found = partition.global_loss([same] * 3, PART)
    assert float(found.total) == pytest.approx(2 * math.log(28), abs=1e-4)
    assert found.trivial["uniform"] == pytest.approx(float(found.total), abs=1e-4)
    # 3 pairs of volumes, quadruples of 4 partitions: 36 of 48 items are of other partitions.
    found = cross.global_loss([same] * 2, PART, VOLUME)
    assert float(found.total) == pytest.approx(2 * math.log(37), abs=1e-4)
    assert found.trivial["uniform"] == pytest.approx(float(found.total), abs=1e-4)


def test_one_direction_a_partition_is_nearly_free(partition):
    z = torch.eye(8)[PART]
    found = float(partition.global_loss([z] * 3, PART).total)
    assert found == pytest.approx(2 * math.log1p(27 * math.exp(-10)), rel=1e-3)


def reference(z, part, positives):
    """The paper's sum, pair by pair."""
    z = torch.nn.functional.normalize(z.double(), dim=1)
    total = 0.0
    for a, b in positives:
        negative = [torch.exp(z[a] @ z[n] / 0.1) for n in range(len(z)) if part[n] != part[a]]
        own = torch.exp(z[a] @ z[b] / 0.1)
        total = total - torch.log(own / (own + sum(negative)))
    return float(total) / len(z)


def test_values_equal_the_papers_sums(partition, cross):
    torch.manual_seed(1)
    z = [torch.randn(12, 8) for _ in range(3)]
    pairs = [(i + 12 * s, i + 12 * t) for i in range(12) for s in range(3) for t in range(3) if s != t]
    found = float(partition.global_loss(z, PART).total)
    assert found == pytest.approx(reference(torch.cat(z), PART.repeat(3), pairs), rel=1e-5)

    rows, part, pairs = [], [], []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        for s in range(4):
            first = len(rows)
            rows += [z[0][4 * i + s], z[1][4 * i + s], z[0][4 * j + s], z[1][4 * j + s]]
            part += [s] * 4
            for a, b in ((0, 1), (0, 2), (2, 3), (1, 3)):
                pairs += [(first + a, first + b), (first + b, first + a)]
    found = float(cross.global_loss(z[:2], PART, VOLUME).total)
    assert found == pytest.approx(reference(torch.stack(rows), torch.tensor(part), pairs), rel=1e-5)


@pytest.mark.parametrize("name", ["partition", "cross"])
def test_volumes_may_change_places_partitions_may_not(name, partition, cross):
    method = {"partition": partition, "cross": cross}[name]
    torch.manual_seed(2)
    z = [torch.randn(12, 8), torch.randn(12, 8)]
    before = method.global_loss(z, PART, VOLUME).total
    order = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11])
    swapped = method.global_loss([v[order] for v in z], PART, VOLUME).total
    assert torch.allclose(before, swapped, atol=1e-5)
    order = torch.tensor([1, 0, *range(2, 12)])
    moved = method.global_loss([v[order] for v in z], PART, VOLUME).total
    assert not torch.allclose(before, moved, atol=1e-3)


def term_of(method, sets, anchor, monkeypatch):
    """Gradient of one anchor's terms with respect to all items, ``[N, D]``."""
    found = {}
    objective = method.objective

    def spy(items, **masks):
        found.update(items=items, masks=masks)
        return type(objective).forward(objective, items, **masks)

    monkeypatch.setattr(objective, "forward", spy)
    method.global_loss(sets, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    monkeypatch.undo()
    items = found["items"].detach().clone().requires_grad_()
    weight = torch.zeros(len(items))
    weight[anchor] = 1.0
    objective(items, **found["masks"], query_weights=weight).total.backward()
    return items, items.grad


def test_gradient_between_volumes(partition, cross, monkeypatch):
    """G^D- leaves the same partition of another volume alone; in G^D it is pulled closer."""
    torch.manual_seed(3)
    sets = [torch.randn(4, 8), torch.randn(4, 8)]
    # Items of set 0: volume 0 and 1 of partition 0, then of partition 1.
    _, grad = term_of(partition, sets, 0, monkeypatch)
    assert float(grad[[1, 5]].abs().max()) == 0.0
    assert float(grad[[2, 3, 4, 6, 7]].abs().amin(dim=0).max()) > 0.0
    # Quadruples: x_i of partitions 0 and 1, their views, then x_j and its views.
    items, grad = term_of(cross, sets, 0, monkeypatch)
    unit = torch.nn.functional.normalize(items.detach(), dim=1)
    toward = unit[0] - (unit[0] @ unit[4]) * unit[4]
    assert float(grad[4] @ toward) < 0  # downhill leads to the anchor


def test_as_many_partitions_as_slices_is_nt_xent_without_own_positives(partition):
    """With every slice a partition of its own and two sets, G^D- is NT-Xent: one positive an item."""
    from ssl_domains.core.objectives.contrastive import NTXent

    torch.manual_seed(4)
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    found = partition.global_loss([a, b], torch.arange(6)).total
    assert float(found) == pytest.approx(float(NTXent(0.1)(a, b).total), rel=1e-5)


def test_local_value_of_equal_regions_and_its_regions(slices):
    method = make(slices, share=0.0, blocks=2)
    same = torch.ones(2, 13, 8)
    assert float(method.local_loss(same, same).total) == pytest.approx(math.log(11), abs=1e-4)
    assert float(
        method.local_loss(same, same, (torch.tensor([0]), torch.tensor([1]))).total
    ) == pytest.approx(math.log(11), abs=1e-4)
    batch = batch_of(slices)
    across = make(slices, share=0.0, blocks=2, local="cross", negatives=2)
    across.variant = "cross"
    assert torch.isfinite(across(batch, Draw(0, 0, batch.index)).loss)
    assert region_centres(2).shape == (13, 2)
    assert region_centres(3).shape == (35, 3)
    near = neighbours(region_centres(2))
    assert near.shape == (13, 5)
    assert all(i not in row for i, row in enumerate(near.tolist()))
    torch.manual_seed(0)
    f, g = torch.randn(2, 13, 8), torch.randn(2, 13, 8)
    assert torch.allclose(method.local_loss(f, g).total, method.local_loss(g, f).total, atol=1e-6)


def test_regions_see_their_own_places_only():
    head = Regions(4, 2, side=3, width=6).eval()
    head.head = torch.nn.Identity()
    x = torch.randn(1, 4, 24, 24)
    corner = head.corners((24, 24))
    before = head(x)
    top, left = (int(v) for v in corner[5])
    x[:, :, top : top + 3, left : left + 3] += 1.0
    changed = (head(x) - before).abs().amax(dim=2)[0] > 1e-6
    assert bool(changed[5])
    overlaps = ((corner - corner[5]).abs() < 3).all(dim=1)
    assert torch.equal(changed, overlaps)


def batch_of(source, parts=4, volumes=3):
    sampler = registry.get("sampler", "partitions")(parts)
    sampler.prepare(source)
    rows = source.splits["train"]
    return source.fetch(sampler.epoch(rows, parts * volumes, 1, 0, 0)[0])


def test_stages_freeze_what_they_should(slices):
    method = make(slices, "cross", share=0.5, blocks=2)
    batch = batch_of(slices)
    decoder = {id(p) for m in method.encoder.decoder_modules() for p in m.parameters()}
    encoder = [p for p in method.encoder.parameters() if id(p) not in decoder and p.requires_grad]

    method(batch, Draw(0, 0, batch.index)).loss.backward()
    assert all(p.grad is not None for p in encoder)
    assert all(p.grad is None for m in method.encoder.decoder_modules() for p in m.parameters())

    method.zero_grad(set_to_none=True)
    method.after_step(Progress(5, 10))
    assert method.local_stage
    kept = [p.detach().clone() for p in encoder]
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2, weight_decay=0.1)
    method(batch, Draw(0, 5, batch.index)).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, k) for p, k in zip(encoder, kept, strict=True))
    first, last = method.encoder.decoder_modules()[0], method.encoder.decoder_modules()[-1]
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None for p in last.parameters())  # blocks beyond L stay as they were
    assert not any("final_conv" in n for n, p in method.named_parameters() if p.grad is not None)

    state = method.state_dict()
    again = make(slices, "cross", share=0.5, blocks=2)
    again.load_state_dict(state)
    assert again.local_stage  # a resumed run goes on in its stage


def both_ways(rank, z, variant):
    """Loss of a process's share, and its gradient."""
    from ssl_domains.core import registry as names
    from ssl_domains.core.collectives import all_gather_rows, gather_no_grad

    names.scan_core()
    domain = names.load_domain("medical3d")()
    source = domain.open("generated://phantoms?patients=8&size=24", axis="axial", size=(32, 32), valid=0.1)
    method = make(source, variant)
    share = [v[6 * rank : 6 * rank + 6].clone().requires_grad_() for v in z]
    part, volume = PART4[6 * rank : 6 * rank + 6], VOLUME4[6 * rank : 6 * rank + 6]
    joined = [all_gather_rows(v) for v in share]
    terms = method.global_loss(joined, gather_no_grad(part), gather_no_grad(volume))
    terms.total.backward()
    return float(terms.total.detach()), share[0].grad


PART4, VOLUME4 = torch.arange(3).repeat(4), torch.arange(4).repeat_interleave(3)


@pytest.mark.slow
def test_two_processes_are_one_joined_batch(slices):
    from ssl_domains.core.testing import run_processes

    torch.manual_seed(0)
    z = [torch.randn(12, 8), torch.randn(12, 8)]
    method = make(slices, "cross")
    own = [v.clone().requires_grad_() for v in z]
    total = method.global_loss(own, PART4, VOLUME4).total
    total.backward()
    (first, a), (second, b) = run_processes(both_ways, 2, z, "cross")
    assert first == pytest.approx(float(total), rel=1e-5)
    assert second == pytest.approx(float(total), rel=1e-5)
    assert torch.allclose(torch.cat([a, b]) / 2, own[0].grad, atol=1e-5)


def test_sampler_takes_one_slice_of_each_part(slices):
    sampler = registry.get("sampler", "partitions")(4)
    sampler.prepare(slices)
    rows = slices.splits["train"]
    batches = sampler.epoch(rows, 12, sampler.n_batches(rows, 12), seed=0, epoch=1)
    again = sampler.epoch(rows, 12, sampler.n_batches(rows, 12), seed=0, epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    for batch in batches:
        volume = slices.samples.volume[batch]
        depth = slices.fetch(batch).meta["position"][:, 0].numpy()
        assert np.array_equal(volume.reshape(3, 4), np.repeat(volume[::4], 4).reshape(3, 4))
        assert len(set(volume[::4])) == 3
        assert np.array_equal(parts_of(depth, 4), np.tile(np.arange(4), 3))
    counts = np.bincount(slices.samples.volume[np.concatenate(batches)][::4])
    assert np.ptp(counts[np.unique(slices.samples.volume[rows])]) <= 1
    with pytest.raises(DataError, match=r"train.batch_size 10 must be a multiple of 4"):
        sampler.n_batches(rows, 10)


def test_batches_without_shared_parts_say_so(slices, cross):
    batch = slices.fetch(np.flatnonzero(slices.samples.volume == slices.samples.volume[0])[:4])
    with pytest.raises(Exception, match="sampler 'partitions'"):
        cross(Batch(batch.x, batch.index, None, batch.meta), Draw(0, 0, batch.index))
