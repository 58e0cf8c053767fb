"""Styles of views: what a recipe changes, what is recorded, and pieces that change nothing."""

import pytest
import torch

from ssl_domains.core.parts import style
from ssl_domains.core.parts.style import BYOL, Style, changed, draw_style, in_pieces, pair, recorded
from ssl_domains.core.random import Draw

NONE = {"grey": None, "blur": None, "solarise": None, "flip": None}


def test_a_recipe_changes_what_it_names():
    own = changed(BYOL, NONE | {"blur": 0.25}, (0.3, 0.9), strength=10.0)
    assert own == Style((0.3, 0.9), (4.0, 4.0, 2.0, 0.5), 0.8, 0.2, 0.25)  # a hue turns by half at the most
    assert changed(BYOL, NONE, None, 1.0) == BYOL


@pytest.mark.parametrize(
    ("own", "scale", "strength", "message"),
    [
        ({"grey": 1.5}, None, 1.0, r"views\.grey is a share of the samples"),
        ({}, (0.5, 1.5), 1.0, r"views\.scale must be \[low, high\] with 0 < low <= high <= 1"),
        ({}, (0.0, 0.5), 1.0, r"views\.scale must be"),
        ({}, None, -1.0, r"views\.strength must not be negative"),
    ],
)
def test_what_does_not_fit_is_refused(own, scale, strength, message):
    with pytest.raises(ValueError, match=message):
        changed(BYOL, NONE | own, scale, strength)
    with pytest.raises(ValueError, match=r"views\.ratio must be"):
        pair((2.0, 1.0), "ratio")


def test_a_view_records_what_was_done_and_nothing_else():
    index = torch.arange(200)
    always = Style((0.2, 0.5), (0.4, 0.4, 0.2, 0.1), 1.0, 1.0, 1.0, 1.0, 1.0)
    never = Style((0.2, 0.5), (0.4, 0.4, 0.2, 0.1), 0.0, 0.0, 0.0, 0.0, 0.0)
    made = []
    for kind in (always, never):
        p = draw_style(Draw(0, 1, index), kind, (40, 60), (112, 112), ratio=(0.9, 1.1), sigma=(0.1, 2.0))
        made.append(recorded(p))
    on, off = made
    assert on["flip"].all()
    assert not off["flip"].any()
    assert (off["jitter"] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()
    assert (on["jitter"][:, :3] - 1).abs().amax(0).tolist() == pytest.approx([0.4, 0.4, 0.2], rel=0.05)
    assert off["blur"].eq(0).all()
    assert 0.05 <= on["blur"].min() <= on["blur"].max() <= 1.0  # half the size, half the blur
    area = on["crop"][:, 2] * on["crop"][:, 3]
    assert 0.18 < area.min() < area.max() < 0.53
    assert torch.equal(on["crop"], off["crop"])  # shares do not shift other numbers


def test_pieces_change_nothing(monkeypatch):
    x = torch.arange(70.0).reshape(7, 1, 10)
    params = {"gain": torch.arange(7.0)}
    seen = []

    def make(part, p):
        seen.append(len(part))
        return part * p["gain"][:, None, None]

    monkeypatch.setattr(style, "CHUNK_BYTES", 3 * 40)
    assert torch.equal(in_pieces(make, x, params, (1, 10)), x * torch.arange(7.0)[:, None, None])
    assert seen == [3, 3, 1]
