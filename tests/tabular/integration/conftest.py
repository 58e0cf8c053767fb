"""Tables of people, written down more than once."""

import numpy as np
import pandas as pd
import pytest

PEOPLE = """anna bruno clara dimitri elena farid greta hugo ines jonas kira luca mona nils olga paul
weber rossi novak silva meyer dubois haas costa keller moreau vogel ricci lang petit"""
FIRST, LAST = (line.split() for line in PEOPLE.splitlines())
STREETS = ["station street", "mill road", "church lane", "park avenue", "river drive", "hill court"]


def _people(n=120, copies=1, seed=0):
    """``n`` people, and copies of the first half with a typing error, a lost cell or a short form."""
    rng = np.random.default_rng(seed)
    names = [f"{a} {b}" for a in FIRST for b in LAST]
    chosen = rng.permutation(len(names))[:n]
    frame = pd.DataFrame(
        {
            "name": [names[i] for i in chosen],
            "address": [f"{rng.integers(1, 300)} {rng.choice(STREETS)}" for _ in range(n)],
            "phone": [f"{rng.integers(1000, 9999)}-{rng.integers(100000, 999999)}" for _ in range(n)],
            "born": rng.integers(1930, 2010, n).astype(str),
            "person": [f"p{i}" for i in range(n)],
        }
    )
    parts = [frame]
    for _ in range(copies):
        copy = frame.iloc[: n // 2].copy()
        for i in range(len(copy)):
            kind = rng.integers(4)
            if kind == 0:
                name = copy.iat[i, 0]
                at = rng.integers(1, len(name) - 1)
                copy.iat[i, 0] = name[:at] + name[at + 1 :]
            elif kind == 1:
                copy.iat[i, 1] = copy.iat[i, 1].replace("street", "st").replace("avenue", "ave")
            else:
                copy.iat[i, int(rng.integers(1, 4))] = None
        parts.append(copy)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def people():
    return _people()


@pytest.fixture(scope="session")
def make_people():
    """Makes such a table: ``make_people(n, copies, seed)``."""
    return _people
