"""D-SLA on molecules: the conditions of ``d_sla`` (sheet 44)."""

from __future__ import annotations

from benchmarks.claims.common import Result, data_root
from benchmarks.claims.d_sla import STEPS, conclude, measure


def run(seeds: int) -> Result:
    """On the molecules of the solubility set."""
    data = {
        "source": str(data_root() / "molecules.csv"),
        "smiles": "smiles",
        "label": "logS",
        "split": "split",
        "atoms": ["element"],
        "bonds": ["type", "direction"],
    }
    values = measure(seeds, data)
    verdict, notes = conclude(values)
    return Result(
        name="d_sla_molecules",
        paper="D-SLA on molecules (NeurIPS 2022)",
        claim="On molecules, too, D-SLA's distances follow edit distances better than contrast, its first term alone, "
        "and the untrained encoder.",
        setting="1,282 molecules with solubility (257 of them for the test); element, bond type and direction as input; "
        f"GIN 3 x 64, batch 64, {STEPS} steps (the contrast: {STEPS * 5 // 2}).",
        metric="Spearman correlation of edits and distance, or test R2 of a linear probe",
        values=values,
        verdict=verdict,
        notes=notes,
    )
