"""Splits by patient: nobody is in two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError

SPLITS = ("train", "valid", "test")


def split_patients(
    patients: Sequence[str], given: Sequence[str | None], *, valid: float, test: float, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Split of each study, and notes.

    Args:
        patients: who each study is of.
        given: train, valid, test or None of each study.
        valid: share of the patients for validation; at least one where there are three or more.
        test: the same for the test.
        seed: of the draw.

    Raises:
        DataError: shares out of range, one patient in two splits, or nobody left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share of the patients and must lie in [0, 1), got {share}")
    who, notes = np.array(patients, dtype=object), []
    if any(word is not None for word in given):
        names = np.array([word or "" for word in given], dtype=object)
    else:
        names = np.full(len(who), "train", dtype=object)
        known = np.unique(who.astype(str))
        order = np.random.default_rng([seed, 11]).permutation(known)
        begin = 0
        for split, share in (("valid", valid), ("test", test)):
            count = max(round(share * len(known)), 1) if share and len(known) >= 3 else 0
            names[np.isin(who.astype(str), order[begin : begin + count])] = split
            begin += count
        if len(known) < 3:
            have = "one patient" if len(known) == 1 else "two patients"
            notes.append(f"{have}: all of it is for training, nothing is held out, no probe can be scored")
    check_patients(who, names)
    if not (names == "train").any():
        raise DataError("no study is left to train on; lower data.valid and data.test")
    return names, notes


def check_patients(who: np.ndarray, names: np.ndarray) -> None:
    """Raises where a patient stands on two sides.

    Raises:
        DataError: without naming the patient; says how many.
    """
    sides: dict[str, set[str]] = {}
    for patient, name in zip(who.astype(str), names.astype(str), strict=True):
        if name:
            sides.setdefault(patient, set()).add(name)
    shared = [s for s in sides.values() if len(s) > 1]
    if shared:
        pair = " and ".join(sorted(shared[0]))
        raise DataError(
            f"{len(shared)} patients have studies in {pair}; a patient belongs to one split, mend data.split"
        )
