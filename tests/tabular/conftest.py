"""Tables that the tests share."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees another's cache."""
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))


def make_frame(n=120, seed=0):
    """Numbers with gaps, whole numbers, texts with gaps, booleans, dates, and a label."""
    rng = np.random.default_rng(seed)
    amount = rng.normal(5.0, 3.0, n).round(4)
    amount[::10] = np.nan
    city = rng.choice(["Basel", "Köln", "Lyon"], n).astype(object)
    city[3::20] = None
    day = np.array("2024-01-01", "datetime64[s]") + rng.integers(0, 700, n).astype("timedelta64[D]")
    return pd.DataFrame(
        {
            "amount": amount,
            "count": rng.integers(0, 50, n),
            "city": city,
            "member": rng.random(n) < 0.3,
            "day": day,
            "price": rng.normal(size=n).round(5),
        }
    )


@pytest.fixture
def frame():
    return make_frame()
