"""CMD's loss: DINO and EsViT as special cases, the bag term's properties, centers, two processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.cross_level import CrossLevel, Levels, divergence, match
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.parts.pooling import InstancePooling

K, B, D = 6, 8, 4
MEAN = InstancePooling("mean", D)
PLAIN = {"teacher_temperature_end": None}


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(seed, t=5, valid=None, b=B):
    return Levels(
        rand(b, K, seed=seed), rand(b, t, K, seed=100 + seed), rand(b, t, D, seed=200 + seed), valid
    )


def views():
    """Two global views and one local one, with fewer regions; and the teacher's two."""
    return [level(0), level(1), level(2, t=3)], [level(10), level(11)]


def loss(**options):
    return CrossLevel(K, **{**PLAIN, **options}).double()


def with_grad(levels):
    for x in levels:
        for name in ("whole", "regions"):
            getattr(x, name).requires_grad_()
    return levels


def literal(students, teachers, tau_s=0.1, tau_t=0.04):
    """Each pair, sample and region by itself; centers 0."""
    image = region = inter = pairs = 0.0
    for q, t in enumerate(teachers):
        for v, s in enumerate(students):
            if v == q:
                continue
            pairs += 1
            for b in range(len(s.whole)):
                p, u = (t.whole[b] / tau_t).softmax(0), (s.whole[b] / tau_s).softmax(0)
                image = image - (p * u.log()).sum()
                bag, one = 0.0, 0.0
                for i in range(s.regions.shape[1]):
                    cosine = F.cosine_similarity(s.features[b, i][None], t.features[b])
                    target = (t.regions[b, cosine.argmax()] / tau_t).softmax(0)
                    u_i = (s.regions[b, i] / tau_s).softmax(0)
                    one = one - (target * u_i.log()).sum()
                    bag = bag + u_i / s.regions.shape[1]
                region = region + one / s.regions.shape[1]
                inter = inter + (u * (u / bag).log()).sum()
    n = pairs * len(students[0].whole)
    return image / n, region / n, inter / n


def test_equals_the_literal_formula():
    students, teachers = views()
    with_grad(students)
    terms = loss()(students, teachers, MEAN)
    image, region, inter = literal(students, teachers)
    for name, value in (("image", image), ("region", region), ("inter", inter)):
        torch.testing.assert_close(terms.parts[name], value.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms.total, 0.5 * image + 0.5 * region + inter, rtol=1e-9, atol=1e-12)
    leaves = [x for s in students for x in (s.whole, s.regions)]
    ours = torch.autograd.grad(terms.total, leaves)
    slow = torch.autograd.grad(0.5 * image + 0.5 * region + inter, leaves)
    for a, b in zip(ours, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_image_level_alone_is_dino():
    students, teachers = views()
    ours = loss(image_weight=1.0, region_weight=0.0, inter_weight=0.0)
    dino = TeacherCrossEntropy(K).double()
    for _ in range(2):  # the second step with a moved center
        a = ours(students, teachers, MEAN)
        b = dino([s.whole for s in students], [t.whole for t in teachers])
        torch.testing.assert_close(a.total, b.total)
        ours.after_step(0.1)
        dino.after_step(0.1)
    assert dino.center.abs().max() > 0


def test_image_level_alone_is_lightly_dino():
    lightly = pytest.importorskip("lightly.loss")
    students, teachers = views()
    theirs = lightly.DINOLoss(K, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    theirs = theirs.double()
    expected = theirs([t.whole for t in teachers], [s.whole for s in students], epoch=2)
    ours = loss(image_weight=1.0, region_weight=0.0, inter_weight=0.0)(students, teachers, MEAN)
    torch.testing.assert_close(ours.total, expected.double(), rtol=1e-5, atol=1e-6)


def test_inter_level_is_zero_when_regions_say_what_the_sample_says():
    whole = rand(B, K)
    for t in (1, 7):  # summed instead of averaged, seven would fail
        same = [Levels(whole, whole[:, None].expand(-1, t, -1), rand(B, t, D)) for _ in range(2)]
        assert loss()(same, same, MEAN).parts["inter"].abs() < 1e-12
    students, teachers = views()
    assert loss()(students, teachers, MEAN).parts["inter"] > 0


def test_finite_for_large_logits():
    for scale in (50.0, -50.0):
        s = [
            Levels(scale * torch.eye(K)[:4], scale * rand(4, 5, K).sign().float(), rand(4, 5, D).float())
            for _ in range(2)
        ]
        with_grad(s)
        for kind in ("mean", "max"):
            terms = CrossLevel(K)(
                s,
                [Levels(x.whole.detach(), x.regions.detach(), x.features) for x in s],
                InstancePooling(kind, D),
            )
            terms.total.backward()
            assert torch.isfinite(terms.total)
            assert all(torch.isfinite(v) for v in terms.parts.values())
            assert all(torch.isfinite(x.regions.grad).all() for x in s)


def permuted(x, seed):
    order = torch.argsort(rand(B, x.regions.shape[1], seed=seed), dim=1)[..., None]
    pick = lambda y: y.gather(1, order.expand(-1, -1, y.shape[2]))  # noqa: E731
    return Levels(x.whole, pick(x.regions), pick(x.features))


def test_order_of_regions_does_not_matter():
    students, teachers = views()
    expected = loss()(students, teachers, MEAN).total
    moved = [permuted(s, i) for i, s in enumerate(students)]
    torch.testing.assert_close(loss()(moved, teachers, MEAN).total, expected)
    torch.testing.assert_close(loss()(students, [permuted(t, 9) for t in teachers], MEAN).total, expected)


def test_gradients_reach_both_heads_and_never_the_teacher():
    students, teachers = (with_grad(x) for x in views())
    loss(image_weight=0.0, region_weight=0.0)(students, teachers, MEAN).total.backward()
    assert all(s.whole.grad.abs().max() > 0 and s.regions.grad.abs().max() > 0 for s in students)
    assert all(t.whole.grad is None and t.regions.grad is None for t in teachers)


def test_each_level_has_a_center_that_moves_by_a_tenth():
    students, teachers = views()
    objective = loss()
    objective(students, teachers, MEAN)
    objective.after_step(0.1)
    whole = torch.cat([t.whole for t in teachers]).mean(0)
    regions = torch.cat([t.regions.flatten(0, 1) for t in teachers]).mean(0)
    torch.testing.assert_close(objective.image.center, 0.1 * whole)
    torch.testing.assert_close(objective.region.center, 0.1 * regions)
    assert not torch.allclose(whole, regions)


def test_regions_match_themselves():
    features = rand(B, 6, D)
    assert torch.equal(match(features, features), torch.arange(6).expand(B, 6))
    valid = torch.ones(B, 6, dtype=torch.bool)
    valid[:, 0] = False
    assert (match(features, features, valid) > 0).all()


def test_padded_regions_count_for_nothing():
    students, teachers = views()
    expected = loss()(students, teachers, MEAN)

    def pad(x):
        more = Levels(
            x.whole,
            torch.cat([x.regions, 99 * torch.ones(B, 2, K).double()], 1),
            torch.cat([x.features, rand(B, 2, D)], 1),
        )
        more.valid = torch.arange(more.regions.shape[1]).expand(B, -1) < x.regions.shape[1]
        return more

    objective, plain = loss(), loss()
    terms = objective([pad(s) for s in students], [pad(t) for t in teachers], MEAN)
    torch.testing.assert_close(terms.total, expected.total)
    plain(students, teachers, MEAN)
    for o in (objective, plain):
        o.after_step(0.0)
    torch.testing.assert_close(objective.region.center, plain.region.center)


def test_symmetric_divergence():
    p, q = rand(4, K).log_softmax(1), rand(4, K, seed=1).log_softmax(1)
    torch.testing.assert_close(divergence(p, q, True), divergence(q, p, True))
    torch.testing.assert_close(divergence(p, q, True), (divergence(p, q) + divergence(q, p)) / 2)
    assert (divergence(p, q) >= 0).all()


def test_trivial_values_preconditions_and_bad_arguments():
    uniform = [Levels(torch.zeros(2, K), torch.zeros(2, 3, K), torch.randn(2, 3, D)) for _ in range(2)]
    terms = CrossLevel(K)(uniform, uniform, MEAN)
    assert terms.total.item() == pytest.approx(terms.trivial["uniform"]) == pytest.approx(math.log(K))
    assert "cross_level" in CrossLevel(K).check(batch_size=1, width=K, views=2, n_samples=9)[0]
    with pytest.raises(UserError, match="region_weight"):
        CrossLevel(K, region_weight=-1)


def run(share):
    students, teachers = views()
    valid = torch.arange(5) < torch.arange(1, B + 1)[:, None]
    students[0].valid = valid  # processes hold different numbers of regions
    cut = [
        [Levels(*(None if y is None else y[share].detach() for y in vars(x).values())) for x in xs]
        for xs in (students, teachers)
    ]
    with_grad(cut[0])
    objective = loss()
    terms = objective(*cut, MEAN)
    terms.total.backward()
    objective.after_step(0.1)
    return (
        terms.total.detach(),
        terms.parts,
        torch.stack([s.whole.grad for s in cut[0]]),
        cut[0][0].regions.grad,
        dict(objective.state_dict()),
    )


def worker(rank):
    return run(slice(0, 4) if rank == 0 else slice(4, 8))


def test_two_processes_equal_one():
    from ssl_domains.core.testing import run_processes

    first, second = run_processes(worker, 2)
    total, parts, whole, regions, state = run(slice(None))
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([first[2], second[2]], 1) / 2, whole, **close)
    torch.testing.assert_close(torch.cat([first[3], second[3]]) / 2, regions, **close)
    for result in (first, second):
        torch.testing.assert_close(result[0], total, **close)
        torch.testing.assert_close(result[1], parts, **close)
        torch.testing.assert_close(result[4], state, **close)
