"""The step of CMD: teachers, local views, frozen last layers, ragged tokens, what has no regions."""

import pytest
import torch

from ssl_domains.core.batch import Encoded, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.cross_level_distillation import CrossLevelDistillation
from ssl_domains.core.objectives.cross_level import CrossLevel
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.random import Draw


def build(encoder, views, n_views=3, local=1, **options):
    torch.manual_seed(1)
    objective = CrossLevel(12, **options.pop("objective", {}))
    return CrossLevelDistillation(
        encoder, objective, views(n_views, local=local), [16, 8], prototypes=12, **options
    )


def test_only_students_get_gradient_and_the_loss_falls(encoder, views, batch):
    method = build(encoder, views, pooling="attention", freeze_prototypes_epochs=0, momentum=0.99)
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=3e-3)
    losses = []
    for step in range(60):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            for name, p in method.named_parameters():
                assert (p.grad is None) == name.startswith("teachers"), name
                assert p.grad is None or p.grad.abs().max() > 0, name
        optimizer.step()
        method.after_step(Progress(step + 1, 60))
        losses.append(float(out.parts["kl"]))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert method.encoder_for_export() is method.teachers[0].module


def test_local_views_do_not_pass_the_teacher(encoder, views, batch):
    method = build(encoder, views, n_views=5, local=3)
    passed = {"student": 0, "teacher": 0}
    method.encoder.register_forward_hook(lambda *_: passed.__setitem__("student", passed["student"] + 1))
    method.teachers[0].module.register_forward_hook(
        lambda *_: passed.__setitem__("teacher", passed["teacher"] + 1)
    )
    method(batch, Draw(0, 0, batch.index))
    assert passed == {"student": 5, "teacher": 2}


def test_image_level_alone_is_dino_on_the_pooled_vectors(encoder, views, batch):
    weights = {
        "image_weight": 1.0,
        "region_weight": 0.0,
        "inter_weight": 0.0,
        "teacher_temperature_end": None,
    }
    method = build(encoder, views, objective=weights)
    draw = Draw(0, 3, batch.index)
    found = views(3, local=1)(batch, draw.fork("views"))
    students = [method.whole_head(encoder(v.x).pooled) for v in found]
    expected = TeacherCrossEntropy(12)(students, [s.detach() for s in students[:2]])
    torch.testing.assert_close(method(batch, draw).loss, expected.total)


def test_last_layers_stay_in_the_first_epoch(encoder, views, batch):
    method = build(encoder, views)
    for epoch, moves in ((0, False), (1, True)):
        method.before_epoch(None, epoch)
        method.zero_grad()
        method(batch, Draw(0, 0, batch.index)).loss.backward()
        for head in (method.whole_head, method.region_head):
            assert bool(head.last.weight.grad.abs().max() > 0) == moves
            assert head.body[0].weight.grad.abs().max() > 0


def test_teachers_follow(encoder, views, batch):
    method = build(encoder, views)
    old = [p.clone() for p in method.teachers[2].parameters()]
    with torch.no_grad():
        for p in method.region_head.parameters():
            p.add_(1.0)
    method.after_step(Progress(0, 10))
    for before, now in zip(old, method.teachers[2].parameters(), strict=True):
        torch.testing.assert_close(now - before, torch.full_like(now, 0.004), rtol=1e-2, atol=1e-6)


def test_ragged_tokens_give_the_loss_of_padded_ones(encoder, views, batch):
    """Dense tokens, told as ragged ones: the same bags."""
    method = build(encoder, views)
    expected = method(batch, Draw(0, 0, batch.index)).loss
    forward = type(encoder).forward

    def ragged(self, x, mask=None, **options):
        found = forward(self, x, mask, **options)
        b, n, _ = found.tokens.values.shape
        segment = torch.arange(b).repeat_interleave(n)
        return Encoded(Tokens(found.tokens.values.flatten(0, 1), segment=segment), found.pooled)

    for module in (method.encoder, method.teachers[0].module):
        module.forward = ragged.__get__(module)
    torch.testing.assert_close(method(batch, Draw(0, 0, batch.index)).loss, expected)


def test_samples_without_regions_are_refused(encoder, views, batch):
    method = build(encoder, views)
    forward = type(encoder).forward

    def nodes(self, x, mask=None, **options):
        pooled = forward(self, x, mask, **options).pooled
        return Encoded(Tokens(pooled, segment=torch.zeros(len(pooled), dtype=torch.int64)), pooled)

    method.encoder.forward = nodes.__get__(method.encoder)
    with pytest.raises(UserError, match="several tokens a sample"):
        method(batch, Draw(0, 0, batch.index))


def test_bad_options(encoder, views):
    with pytest.raises(ValueError, match="wants objective cross_level"):
        CrossLevelDistillation(encoder, TeacherCrossEntropy(12), views(), [16, 8], prototypes=12)
    with pytest.raises(ValueError, match="teacher_buffers"):
        build(encoder, views, teacher_buffers="none")
