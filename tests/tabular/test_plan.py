"""Which columns become what, with which numbers."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.tabular.convert import codes, numbers, texts
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.fit import MAX_COUNTED, NumberFit, Rows, TextFit
from ssl_domains.tabular.plan import PlanOptions, fit_spec
from ssl_domains.tabular.readers import TableReader, open_reader
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

TABLE = TableReader(pa.table({"a": [1]}), "test")


def plan(table, **options):
    reader = open_reader(table)
    return fit_spec(reader, np.ones(reader.n_rows, bool), PlanOptions(**options))


def rows_of(n, start=0):
    return Rows(start, np.ones(n, bool), np.ones(n, bool))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=3, max_size=60), st.integers(1, 20))
def test_streaming_statistics_equal_those_of_the_whole(values, size):
    fit = NumberFit("a", keep_numeric=True)
    for start in range(0, len(values), size):
        part = pa.array(values[start : start + size], pa.float64())
        fit.update(part, rows_of(len(part), start), TABLE, "error")
    real = np.array([v for v in values if v is not None])
    result = fit.result()
    if len(real) == 0:
        assert result == "all missing"
    elif len(set(real)) == 1 and len(real) == len(values):
        assert result == "constant"
    else:
        assert isinstance(result, ColumnSpec)
        np.testing.assert_allclose(result.mean, real.mean(), rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(result.std, real.std() or 1.0, rtol=1e-6, atol=1e-6)
        assert (result.min, result.max) == (real.min(), real.max())
        assert result.missing == pytest.approx(1 - len(real) / len(values))
        assert result.median == pytest.approx(np.median(real))


def test_statistics_of_large_numbers_keep_their_digits():
    """A naive sum of squares loses these deviations."""
    values = 1e9 + np.arange(1000) % 7
    fit = NumberFit("a")
    for start in range(0, 1000, 100):
        fit.update(pa.array(values[start : start + 100]), rows_of(100, start), TABLE, "error")
    assert fit.result().std == pytest.approx(values.std(), rel=1e-9)


def test_kinds():
    n = 60
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "row": np.arange(n) + 10,
            "flag": rng.integers(0, 2, n),
            "flag_with_gaps": np.where(rng.random(n) < 0.2, np.nan, rng.integers(0, 2, n)),
            "three": rng.integers(0, 3, n),
            "two_fractions": rng.choice([0.5, 1.5], n),
            "user": [f"u{i}" for i in range(n)],
            "few": rng.choice(["x", "y"], n),
            "same": "z",
            "same_or_missing": [None, "z"] * (n // 2),
            "gone": None,
            "parts": [[1, 2]] * n,
            "when": pd.date_range("2024-01-05", periods=n, freq="17h"),
            "iso": [f"2024-02-{1 + i % 28:02d}" for i in range(n)],
            "numbers_as_text": [str(i * 1.5) for i in range(n)],
            "clock": pd.to_timedelta(rng.integers(0, 1000, n), unit="s"),
        }
    )
    spec = plan(frame)
    assert spec.dropped == {
        "row": "counts the rows",
        "user": "nearly every value is different (an id or free text)",
        "same": "constant",
        "gone": "all missing",
        "parts": "values of type list<item: int64> are neither numbers nor categories",
    }
    assert {c.name for c in spec.categorical} == {"flag", "flag_with_gaps", "few", "same_or_missing"}
    assert {c.name for c in spec.numeric} == {
        "three", "two_fractions", "when:time", "when:month", "when:weekday", "when:hour", "iso:time",
        "iso:weekday", "numbers_as_text", "clock",
    }  # fmt: skip
    told = plan(
        frame, columns={"row": "numeric", "three": "categorical", "user": "categorical", "iso": "categorical"}
    )
    assert {"row"} <= {c.name for c in told.numeric}
    assert {"three", "user", "iso"} <= {c.name for c in told.categorical}
    assert len(told.categorical[[c.name for c in told.categorical].index("user")].categories) == n


def test_include_and_exclude(frame):
    assert plan(frame, include=["city", "count"]).names == ["count", "city"]
    assert "city" not in plan(frame, exclude=["city"]).names


def test_date_parts_by_hand():
    dates = pa.array(["2024-03-09T06:30:00", None, "1970-01-01T00:00:00"])
    for array in (dates, dates.cast(pa.timestamp("s")), dates.cast(pa.timestamp("ns"))):
        for part, want in {
            "time": [1709965800.0, math.nan, 0.0],
            "month": [3, math.nan, 1],
            "weekday": [5, math.nan, 3],  # a Saturday, a Thursday
            "hour": [6.5, math.nan, 0],
        }.items():
            np.testing.assert_array_equal(numbers(array, part), want, err_msg=part)


def test_a_date_in_another_zone_is_the_same_moment():
    local = pa.array(["2024-03-09T07:30:00+01:00"])
    assert numbers(local, "time")[0] == 1709965800.0
    assert numbers(pa.array([1709965800], pa.timestamp("s", tz="Europe/Berlin")), "hour")[0] == 6.5


def test_texts_do_not_depend_on_the_type():
    want = ["1", None, "3"]
    for array in (
        pa.array([1, None, 3]),
        pa.array([1.0, None, 3.0]),
        pa.array(want),
        pa.array(want).dictionary_encode(),
    ):
        assert texts(array).to_pylist() == want
    assert texts(pa.array([True, False, None])).to_pylist() == ["true", "false", None]
    assert texts(pa.array([0.5, 2.0])).to_pylist() == ["0.5", "2"]


def test_codes():
    column = ColumnSpec("c", "categorical", "c", categories=("blue", "red"))
    assert codes(pa.array(["red", None, "green", "blue"]), column).tolist() == [3, 0, 1, 2]
    assert codes(pa.array([None, None], pa.null()), column).tolist() == [0, 0]


def test_rare_values_share_a_code():
    values = ["a"] * 50 + ["b"] * 30 + ["c"] * 20 + ["d", "e", "f"]
    spec = plan(pa.table({"v": values}), max_categories=2)
    column = spec.categorical[0]
    assert column.categories == ("a", "b")
    assert column.counts == (0, 23, 50, 30)
    assert codes(pa.array(["a", "c", "f"]), column).tolist() == [2, 1, 1]


def test_many_texts_stay_bounded():
    fit = TextFit("v", 10)
    for start in range(0, MAX_COUNTED + 60_000, 50_000):
        new = [f"id{start + i}" for i in range(49_000)] + ["often"] * 1000
        fit.update(pa.array(new), rows_of(50_000, start), TABLE, "error")
        assert len(fit.counter) <= MAX_COUNTED + 50_000
    assert fit.result() == "nearly every value is different (an id or free text)"
    fit.forced = True
    assert fit.result().categories == ("often",)


def test_statistics_come_from_the_train_rows_only():
    table = pa.table({"x": [0.5, 2.5, 1000.0, -1000.0], "c": ["a", "b", "z", "z"]})
    train = np.array([True, True, False, False])
    spec = fit_spec(open_reader(table), train, PlanOptions())
    x, c = spec.columns
    assert (x.mean, x.std, x.min, x.max) == (1.5, 1.0, 0.5, 2.5)
    assert c.categories == ("a", "b")
    assert spec.n_train == 2


def test_inf_is_found_outside_the_train_rows(tmp_path):
    """Whatever row it is in."""
    table = pa.table({"x": [0.0, 2.0, 1.0, math.inf]})
    with pytest.raises(Exception, match="row 4 of the Arrow table: column 'x' is infinite"):
        fit_spec(open_reader(table), np.array([True, True, True, False]), PlanOptions())


def test_spec_survives_json(frame):
    spec = Tabular().open(frame, label="price", scaling="quantile").spec
    again = Tabular().spec_from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert isinstance(again, TableSpec)
    assert hash(again.numeric) == hash(spec.numeric)


def test_scalings_by_hand():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=4000)
    table = pa.table({"x": values})
    z = ((values - values.mean()) / values.std()).astype(np.float32)[:, None]
    standard, minmax, quantile = (plan(table, scaling=s) for s in ("standard", "minmax", "quantile"))
    np.testing.assert_array_equal(standard.scale(z), z)
    want = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(minmax.scale(z)[:, 0], want, atol=1e-5)
    assert minmax.variances()[0] == pytest.approx(want.var(), rel=1e-5)
    normal = quantile.scale(z)[:, 0]
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.08
    assert (np.argsort(normal[:50]) == np.argsort(values[:50])).all()
    assert np.isnan(quantile.scale(np.array([[np.nan]], np.float32))).all()


def test_quantiles_of_a_value_that_fills_many():
    """Half zeros: they share the middle of the ranks they cover."""
    values = np.concatenate([np.zeros(500), np.linspace(1, 2, 500)])
    spec = plan(pa.table({"x": values}), scaling="quantile")
    column = spec.numeric[0]
    z = np.array([[(0 - column.mean) / column.std], [(2 - column.mean) / column.std]], np.float32)
    low, high = spec.scale(z)[:, 0]
    assert low == pytest.approx(-0.6745, abs=0.05)  # the 25th percentile
    assert high == pytest.approx(3.29, abs=0.01)


def test_entropy_of_a_column():
    column = ColumnSpec("c", "categorical", "c", categories=("a", "b"), counts=(7, 0, 3, 1))
    assert column.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
