"""Joint layouts: names, bones, left-right pairs, body parts; the usual ones, and any from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import DataError

PARTS = ("head", "trunk", "left arm", "right arm", "left leg", "right leg")
_HEAD = ("head", "nose", "eye", "ear", "mouth", "skull", "face", "jaw")
_ARM = (
    *("shoulder", "elbow", "wrist", "hand", "arm", "thumb", "finger", "pinky", "index", "clavicle"),
    *("collar", "palm", "uparm"),
)
_LEG = ("knee", "ankle", "foot", "toe", "heel", "leg", "thigh", "calf", "shin")


@dataclass(frozen=True)
class Layout:
    """Points of a body.

    Attributes:
        name: of the layout.
        joints: V names.
        parents: V places of the joint that a bone comes from; -1 for a root (its bone is 0).
        pairs: (left, right) places that a mirror image exchanges.
        parts: places by body part, for masks; every joint is in exactly one.
        root: the joint that clips are centred on; -1: the mean of the joints.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    parts: tuple[tuple[str, tuple[int, ...]], ...] = ()
    root: int = 0

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def bones(self) -> list[tuple[int, int]]:
        """(child, parent) of each bone."""
        return [(child, parent) for child, parent in enumerate(self.parents) if parent >= 0]

    def mirror(self) -> list[int]:
        """``[V]`` place that each joint takes in a mirror image."""
        order = list(range(len(self)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self)
        values["parts"] = [[name, list(places)] for name, places in self.parts]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Reads :meth:`to_dict` back."""
        return cls(
            values["name"],
            tuple(values["joints"]),
            tuple(values["parents"]),
            tuple((int(a), int(b)) for a, b in values["pairs"]),
            tuple((name, tuple(places)) for name, places in values["parts"]),
            values["root"],
        )


def make(
    name: str,
    joints: Sequence[str],
    bones: Mapping[str, str] | Sequence[int] = (),
    root: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> Layout:
    """A layout from names.

    Args:
        name: of the layout.
        joints: names, in the order of the data.
        bones: parent of each joint by name (roots are left out), or V places with -1 for roots.
        root: joint to centre on; None: the first root.
        pairs: (left, right) names; None: told from the names.
        parts: joints by body part; None: told from the names.

    Raises:
        DataError: a joint that is not there, twice there, or bones that form a circle.
    """
    place = {joint: i for i, joint in enumerate(joints)}
    if len(place) != len(joints):
        twice = next(j for j in joints if list(joints).count(j) > 1)
        raise DataError(f"layout {name}: joint {twice!r} is named twice; give every joint a name of its own")

    def at(joint: str, key: str) -> int:
        if joint not in place:
            raise DataError(
                f"layout {name}: {key} names {joint!r}, which is no joint (joints: {', '.join(joints)})"
            )
        return place[joint]

    if isinstance(bones, Mapping):
        parents = [-1] * len(joints)
        for child, parent in bones.items():
            parents[at(child, "bones")] = at(parent, "bones")
    else:
        parents = [int(p) for p in bones] or [-1] * len(joints)
    _check_tree(name, joints, parents)
    mirrored = guess_pairs(joints) if pairs is None else [(at(a, "pairs"), at(b, "pairs")) for a, b in pairs]
    grouped = guess_parts(joints) if parts is None else {
        part: [at(joint, "parts") for joint in members] for part, members in parts.items()
    }  # fmt: skip
    _check_parts(name, joints, grouped)
    centre = at(root, "root") if root is not None else parents.index(-1)
    return Layout(
        name,
        tuple(joints),
        tuple(parents),
        tuple(mirrored),
        tuple((part, tuple(sorted(members))) for part, members in grouped.items() if members),
        centre,
    )


def _check_tree(name: str, joints: Sequence[str], parents: Sequence[int]) -> None:
    if len(parents) != len(joints):
        raise DataError(f"layout {name}: {len(joints)} joints and {len(parents)} parents; give one a joint")
    for start in range(len(joints)):
        at, steps = start, 0
        while at >= 0:
            if not at < len(joints) or steps > len(joints):
                raise DataError(
                    f"layout {name}: the bones above {joints[start]!r} lead nowhere or in a circle"
                )
            at, steps = parents[at], steps + 1


def _check_parts(name: str, joints: Sequence[str], parts: Mapping[str, Sequence[int]]) -> None:
    found = sorted(place for members in parts.values() for place in members)
    if found != list(range(len(joints))):
        wrong = [j for i, j in enumerate(joints) if found.count(i) != 1]
        raise DataError(f"layout {name}: every joint belongs to exactly one part; look at {', '.join(wrong)}")


def side_of(joint: str) -> str:
    """``left``, ``right`` or nothing, told from a joint's name."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", joint).lower().replace("_", " "))
    for side in ("left", "right"):
        if any(word.startswith(side) for word in words) or side[0] in words:
            return side
    if len(joint) > 1 and joint[0] in "LR" and (joint[1].isupper() or joint[1] == "_"):
        return "left" if joint[0] == "L" else "right"
    return ""


def guess_pairs(joints: Sequence[str]) -> list[tuple[int, int]]:
    """(left, right) places of joints whose names differ in the side only."""
    stems: dict[tuple[str, str], int] = {}
    for i, joint in enumerate(joints):
        if side := side_of(joint):
            stems[side, _without_side(joint)] = i
    return [
        (i, stems["right", stem])
        for (side, stem), i in stems.items()
        if side == "left" and ("right", stem) in stems
    ]


def _without_side(joint: str) -> str:
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", joint)
    text = re.sub(r"(?i)(left|right)", "", text)
    text = re.sub(r"(?i)(?<![a-z])[lr](?![a-z])", "", text)
    if joint[:1] in "LR" and side_of(joint) and text == joint:
        text = joint[1:]
    return re.sub(r"[^a-z0-9]", "", text.lower())


def guess_parts(joints: Sequence[str]) -> dict[str, list[int]]:
    """Places by body part, told from names; what is not told is trunk."""
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for i, joint in enumerate(joints):
        low, side = joint.lower(), side_of(joint)
        if any(word in low for word in _HEAD):
            parts["head"].append(i)
        elif side and any(word in low for word in _LEG) and "forearm" not in low:
            parts[f"{side} leg"].append(i)
        elif side and any(word in low for word in _ARM):
            parts[f"{side} arm"].append(i)
        else:
            parts["trunk"].append(i)
    return {part: members for part, members in parts.items() if members}


def read_layout(path: str | Path) -> Layout:
    """A layout from a JSON or YAML file with ``joints`` and, optionally, ``name``, ``bones`` (``{child:
    parent}`` or a list of places), ``pairs``, ``parts`` and ``root``.

    Raises:
        DataError: not there, not to be read, or not a layout.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"data.layout: {path} cannot be read: {error}") from None
    keys = {"name", "joints", "bones", "pairs", "parts", "root"}
    if not isinstance(found, dict) or "joints" not in found or set(found) - keys:
        raise DataError(f"data.layout: {path} must hold joints, and may hold {', '.join(sorted(keys))}")
    return make(
        str(found.get("name", path.stem)),
        [str(j) for j in found["joints"]],
        found.get("bones", ()),
        found.get("root"),
        found.get("pairs"),
        found.get("parts"),
    )


def numbered(n: int) -> Layout:
    """``n`` points without names or bones; clips are centred on their mean."""
    joints = tuple(f"p{i}" for i in range(n))
    return Layout(f"points-{n}", joints, (-1,) * n, (), (("all", tuple(range(n))),), -1)


def find_layout(layout: str | Layout | None, n_joints: int, origin: str) -> Layout:
    """The layout that ``data.layout`` means, checked against the data.

    Args:
        layout: a name, the path of a file, or None: told from the number of joints.
        n_joints: V of the data.
        origin: for messages.

    Raises:
        DataError: no such layout, or it has another number of joints than the data.
    """
    from ssl_domains.skeleton.known_layouts import LAYOUTS

    if layout is None:
        fitting = [known for known in LAYOUTS.values() if len(known) == n_joints]
        return fitting[0] if fitting else numbered(n_joints)
    if isinstance(layout, str):
        if layout.endswith((".json", ".yaml", ".yml")):
            layout = read_layout(layout)
        elif layout in LAYOUTS:
            layout = LAYOUTS[layout]
        else:
            raise DataError(
                f"data.layout: there is no layout {layout!r}; use {', '.join(LAYOUTS)}, or the path of a "
                ".json or .yaml file"
            )
    if len(layout) != n_joints:
        fits = [name for name, known in LAYOUTS.items() if len(known) == n_joints]
        advice = f"; {' or '.join(fits)} would fit" if fits else "; describe them in a file of your own"
        raise DataError(
            f"{origin} has {n_joints} joints, layout {layout.name!r} has {len(layout)}{advice} (data.layout)"
        )
    return layout
