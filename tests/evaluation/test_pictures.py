"""Pictures in the report: neighbours that can be seen, figures of a domain."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ssl_domains.evaluation.pictures import data_uri
from ssl_domains.evaluation.report import write_report
from ssl_domains.evaluation.results import Evaluation
from ssl_domains.evaluation.unlabelled import neighbour_table


def opened(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_small_pictures_are_enlarged_without_smoothing():
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[0, 0] = 255
    shown = opened(data_uri(pixels))
    assert shown.shape == (96, 48, 3)
    assert (shown[:12, :12] == 255).all()
    assert shown[12:].max() == 0


def test_large_pictures_shrink_and_exact_ones_stay():
    assert opened(data_uri(np.zeros((300, 150, 3), np.uint8))).shape == (96, 48, 3)
    assert opened(data_uri(np.zeros((48, 200, 3), np.uint8))).shape == (48, 200, 3), "a strip of frames"
    assert opened(data_uri(np.zeros((32, 134, 3), np.uint8))).shape == (64, 268, 3)
    assert opened(data_uri(np.zeros((100, 600, 3), np.uint8))).shape == (48, 288, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    np.testing.assert_array_equal(opened(data_uri(pixels)), pixels)
    np.testing.assert_array_equal(opened(data_uri(np.repeat(pixels, 3, 0), None)), np.repeat(pixels, 3, 0))
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8"):
        data_uri(pixels[..., 0])


class Source:
    def ids(self, rows):
        return [f"r{i}" for i in rows]


class Pictured(Source):
    def picture(self, row):
        return np.full((4, 4, 3), row, np.uint8)


def test_neighbours_carry_pictures_where_the_source_has_them():
    z = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    rows = np.arange(10, 16)
    plain = neighbour_table(z, rows, Source())
    assert "picture" not in plain[0]
    found = neighbour_table(z, rows, Pictured())
    for entry in found:
        assert opened(entry["picture"])[0, 0, 0] == int(entry["id"][1:])
        for near in entry["near"]:
            assert opened(near["picture"])[0, 0, 0] == int(near["id"][1:])


def test_the_page_shows_them_and_reads_them_back(tmp_path):
    z = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    figure = {
        "title": "Attention",
        "caption": "Where it looks <here>.",
        "picture": data_uri(np.zeros((4, 4, 3), np.uint8)),
    }
    evaluation = Evaluation(
        task=None, neighbours=neighbour_table(z, np.arange(6), Pictured()), figures=[figure]
    )
    evaluation.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.figures == [figure]
    page = write_report(tmp_path, again, title="t").read_text()
    assert page.count('<img class="thumb"') == sum(1 + len(e["near"]) for e in again.neighbours)
    assert "<h2>Attention</h2>" in page
    assert "Where it looks &lt;here&gt;." in page
    assert "img-src data:" in page


def test_evaluations_of_earlier_runs_have_no_figures(tmp_path):
    values = Evaluation(task=None).to_dict()
    del values["figures"]
    assert Evaluation.from_dict(values).figures == []
