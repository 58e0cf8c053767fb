"""Transformed copies: which, in which order, of one crop; and SLA's row order on real rotations."""

import pytest
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.image.spec import ImageSpec
from ssl_domains.image.transformations import SETS, ImageTransformations


def spec(size=(8, 8), channels=3):
    return ImageSpec(size, channels, (0.5,) * channels, (0.25,) * channels)


def images(b=5, channels=3, size=(8, 8)):
    x = torch.randint(256, (b, channels, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Batch(x, torch.arange(b))


def call(views, batch, step=0):
    return views(batch, Draw(0, step, batch.index))


@pytest.mark.parametrize(
    ("name", "m"),
    [
        ("none", 1),
        ("rotation", 4),
        ("half_turn", 2),
        ("colour", 6),
        ("colour_cyclic", 3),
        ("half_turn_colour_cyclic", 6),
        ("rotation_colour_cyclic", 12),
        ("rotation_colour", 24),
    ],
)
def test_number_of_copies_all_different_and_the_first_plain(name, m):
    batch = images()
    found = call(ImageTransformations(spec(), name, shuffled=False, augment=False), batch)
    assert len(found) == m == len(SETS[name][0]) * len(SETS[name][1])
    assert torch.equal(found[0].x, batch.x)
    assert len({tuple(v.x.flatten().tolist()) for v in found}) == m
    assert [v.params["transformation"].unique().item() for v in found] == list(range(m))


def test_rotations_are_quarter_turns_and_colours_are_cyclic():
    batch = images()
    turned = call(ImageTransformations(spec(), "rotation", shuffled=False, augment=False), batch)
    for k, view in enumerate(turned):
        assert torch.equal(view.x, torch.rot90(batch.x, k, (2, 3)))
    colours = call(ImageTransformations(spec(), "colour_cyclic", shuffled=False, augment=False), batch)
    assert torch.equal(colours[1].x, batch.x[:, [1, 2, 0]])
    both = call(ImageTransformations(spec(), "rotation_colour_cyclic", shuffled=False, augment=False), batch)
    assert torch.equal(both[3 * 3 + 2].x, torch.rot90(batch.x[:, [2, 0, 1]], 3, (2, 3)))


def test_copies_are_of_one_crop_in_an_order_of_each_image():
    batch = images(40)
    found = call(ImageTransformations(spec()), batch)
    order = torch.stack([v.params["transformation"] for v in found], 1)
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(40, -1))
    assert len({tuple(row) for row in order.tolist()}) > 10
    for b in range(40):
        upright = [torch.rot90(found[v].x[b], -int(order[b, v]), (1, 2)) for v in range(4)]
        for other in upright[1:]:
            torch.testing.assert_close(other, upright[0])
    boxes = torch.stack([v.params["crop"] for v in found])
    assert torch.equal(boxes, boxes[:1].expand_as(boxes))
    assert not torch.equal(boxes[0], call(ImageTransformations(spec()), batch, step=1)[0].params["crop"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="square images, these are 8 x 6"):
        ImageTransformations(spec((8, 6)))
    ImageTransformations(spec((8, 6)), "half_turn")
    with pytest.raises(ValueError, match="three channels"):
        ImageTransformations(spec(channels=1), "colour")
    with pytest.raises(KeyError, match="transformation"):
        ImageTransformations(spec()).target_width("rotation", spec())


def test_the_plain_form_has_all_copies_in_order_without_a_crop():
    views, batch = ImageTransformations(spec()), images()
    made = call(views.unaugmented(), batch)
    for number, view in enumerate(made):
        assert torch.equal(view.x, torch.rot90(batch.x, number, (2, 3)))
        assert (view.params["transformation"] == number).all()
    assert views.shuffled
