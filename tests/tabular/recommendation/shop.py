"""Interactions between users and items that follow hidden kinds, as files; a small recipe on them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

N_USERS, N_ITEMS, KINDS = 60, 80, 4


def write_shop(folder, seed=0):
    """Users buy items of their kind, popular ones more often; an item has a kind, a maker, tags, a price."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, KINDS, N_ITEMS)
    items = pd.DataFrame(
        {
            "sku": [f"i{j:03d}" for j in range(N_ITEMS)],
            "kind": [f"k{k}" for k in kind],
            "maker": [f"m{k}{rng.integers(0, 2)}" for k in kind],
            "tags": [
                "|".join(f"t{k}{t}" for t in rng.choice(4, rng.integers(0, 4), replace=False)) for k in kind
            ],
            "price": (10 * kind + rng.normal(size=N_ITEMS)).round(3),
        }
    )
    taste = rng.integers(0, KINDS, N_USERS)
    users = pd.DataFrame({"uid": np.arange(N_USERS), "age": rng.integers(18, 80, N_USERS),
                          "club": [f"c{t}" for t in taste]})  # fmt: skip
    popularity = 1.0 / (1 + np.arange(N_ITEMS))
    rows = []
    for u in range(N_USERS):
        weight = popularity * np.where(kind == taste[u], 8.0, 1.0)
        weight[-10:] = 0.0  # nobody ever buys the last ten
        for j in rng.choice(N_ITEMS, 12, replace=False, p=weight / weight.sum()):
            rows.append((u, f"i{j:03d}", int(rng.integers(1_600_000_000, 1_700_000_000))))
    sales = pd.DataFrame(rows, columns=["uid", "sku", "at"])
    paths = {name: folder / f"{name}.csv" for name in ("sales", "items", "users")}
    for name, frame in (("sales", sales), ("items", items), ("users", users)):
        frame.to_csv(paths[name], index=False)
    data = {"source": str(paths["sales"]), "user": "uid", "item": "sku", "time": "at"}
    data |= {"items": str(paths["items"]), "users": str(paths["users"]), "lists": {"tags": "|"}}
    return SimpleNamespace(folder=folder, sales=sales, items=items, users=users, paths=paths, data=data)


def recipe_of(shop, **sections):
    """A small recipe on these files."""
    base = {
        "domain": "tabular",
        "data": shop.data,
        "encoder": {"name": "two_tower", "width": 16, "hidden": [32], "cell_width": 8},
        "views": {"name": "feature_masking"},
        "method": {"name": "item_recommendation"},
        "objective": {"name": "info_nce", "temperature": 0.2},
        "optimizer": {"name": "adamw", "lr": 5e-3},
        "schedule": {"name": "constant"},
        "train": {"batch_size": 64, "steps": 6, "device": "cpu", "log_every": 2, "guard_every": 3},
        "evaluate": {"probes": ["retrieval"], "seeds": 1, "diagnostic_rows": 50, "map_rows": 40},
    }
    for key, value in sections.items():
        base[key] = {**base[key], **value}
    return base
