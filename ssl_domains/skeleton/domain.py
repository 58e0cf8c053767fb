"""The skeleton domain: what a recipe's ``domain: skeleton`` gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.skeleton.build import BuildOptions, build_source
from ssl_domains.skeleton.data import BodySource
from ssl_domains.skeleton.readers.files import ReadOptions, read
from ssl_domains.skeleton.readers.sensors import SensorOptions, read_sensors
from ssl_domains.skeleton.recordings import Recordings
from ssl_domains.skeleton.spec import BodySpec
from ssl_domains.skeleton.synthetic import generate, is_generated


def _read(source: Any, kind: str, options: SensorOptions) -> Recordings:
    if is_generated(source):
        return generate(str(source))
    return read_sensors(source, options) if kind == "sensors" else read(source, options.common)


def _kind(kind: str | None, source: Any) -> str:
    if kind is None:
        return "sensors" if is_generated(source) and "wearables" in str(source) else "skeleton"
    return kind


@domain("skeleton")
class SkeletonDomain(Domain):
    """Clips of joints, or windows of body-worn devices: points on a body over time."""

    title: ClassVar[str] = (
        "skeletons and body-worn sensors: NTU, COCO, OpenPose and MediaPipe key points, BVH, C3D, CSV, arrays"
    )
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "space_time_transformer",
        "views": "body_augment",
        "mask": "random",
    }

    def open(  # type: ignore[override]
        self,
        source: str | os.PathLike[str],
        kind: str | None = None,
        layout: str | None = None,
        label: str | None = None,
        task: str | None = None,
        group: str | None = None,
        split: str | None = None,
        clip: str | None = None,
        frame: str | None = None,
        labels: str | None = None,
        persons: int | None = None,
        frames: int | None = None,
        window: float | None = None,
        hop: float | None = None,
        center: str = "first",
        normalize: str | float = "scale",
        min_confidence: float = 0.0,
        max_gap: float = 0.25,
        time: str | None = None,
        time_unit: str = "s",
        device: str | None = None,
        devices: Sequence[str] | None = None,
        channels: Sequence[str] | None = None,
        rate: float | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        valid_groups: Sequence[str] = (),
        test_groups: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
    ) -> BodySource:
        """Opens recordings; the scale is fitted on the train clips.

        Args:
            source: a file, or a folder of files of one kind: .npz, .npy, .skeleton, .json (COCO, OpenPose,
                MediaPipe), .bvh, .c3d, .csv, .tsv, .parquet; ``package://PACKAGE/PATH``;
                ``generated://motions`` or ``generated://wearables``.
            kind: ``skeleton`` (default) or ``sensors``.
            layout: ntu-25, coco-17, openpose-18, openpose-25, mediapipe-33, cmu-31, or a .json or .yaml file;
                default: what the file says, else told from the number of joints.
            label: column or array that probes predict; usual names are found.
            task: classification or regression; inferred when not given.
            group: column or array that says who it is (subject); usual names are found.
            split: column or array with train, valid or test.
            clip: column of the recording in a table.
            frame: column of the frame in a table of key points.
            labels: a CSV with the columns name, and label, group or split, for files without them.
            persons: most persons in a clip; default 2 for NTU, else 1.
            frames: length that clips are resampled to; default 64, for sensors the window.
            window: cut recordings into windows of so many seconds (frames, where the rate is unknown).
            hop: seconds from one window to the next; default the window.
            center: skeletons around the root joint of their ``first`` frame, of every ``frame``, or ``none``.
            normalize: ``scale`` (one number for a skeleton; for sensors one a device and sensor),
                ``standard`` (mean and deviation of each point and channel), ``none``, or a number to
                divide by.
            min_confidence: points of less confidence are missing.
            max_gap: seconds over which missing values are filled by straight lines.
            time: sensors: column of the time stamps.
            time_unit: sensors: s, ms, us or ns, where stamps are numbers.
            device: sensors: column of the device.
            devices: sensors: their names, as prefixes of columns (``wrist_acc_x``) or names of files.
            channels: sensors: names of the channels.
            rate: sensors: values a second after resampling; default that of the first device.
            valid: share of the groups (where unknown, of the recordings) for validation.
            test: the same for the test.
            valid_groups: groups for validation, by name.
            test_groups: groups for the test, by name.
            limit: at most so many clips, evenly spaced, for a quick look.
            seed: of the split.

        Raises:
            DataError: in one sentence, with the file, row, frame or joint.
        """
        kind = _kind(kind, source)
        common = ReadOptions(label, group, split, clip, frame, labels, persons)
        reading = SensorOptions(common, time, time_unit, device, devices, channels, rate, max_gap)
        options = BuildOptions(
            kind, layout, frames, window, hop, center, normalize, min_confidence, max_gap, task, valid, test,
            valid_groups, test_groups, limit, seed,
        )  # fmt: skip
        return build_source(_read(source, kind, reading), options)

    def spec_from_dict(self, values: dict[str, Any]) -> BodySpec:
        """Reads a spec back."""
        return BodySpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: BodySpec,
        source: str | os.PathLike[str],
        label: str | None = None,
        group: str | None = None,
        split: str | None = None,
        clip: str | None = None,
        frame: str | None = None,
        labels: str | None = None,
        time: str | None = None,
        time_unit: str = "s",
        device: str | None = None,
        devices: Sequence[str] | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        valid_groups: Sequence[str] = (),
        test_groups: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
        **fitted: Any,
    ) -> BodySource:
        """New recordings with a fitted spec: its points by name, its scale, its windows.

        Sensors need not have all devices; missing ones are 0. Arguments as of :meth:`open`; those that the
        spec has settled (layout, frames, scale ...) are taken and ignored.

        Raises:
            DataError: a joint that the encoder needs is not there, or other channels.
        """
        common = ReadOptions(label, group, split, clip, frame, labels, spec.persons)
        channels = spec.channels if spec.kind == "sensors" else None
        reading = SensorOptions(common, time, time_unit, device, devices, channels, spec.rate, spec.max_gap)
        seconds = 1.0 / (spec.rate or 1.0)
        options = BuildOptions(
            spec.kind, None, spec.frames, None if spec.window is None else spec.window * seconds,
            None if spec.hop is None else spec.hop * seconds, spec.center, "none",
            float(fitted.get("min_confidence") or 0.0), spec.max_gap, fitted.get("task"), valid, test,
            valid_groups, test_groups, limit, seed,
        )  # fmt: skip
        return build_source(_read(source, spec.kind, reading), options, spec)

    def inspect(  # type: ignore[override]
        self, source: str | os.PathLike[str], **data: Any
    ) -> tuple[dict[str, Any], str]:
        """The card, and the recipe lines that use the source."""
        found = self.open(source, **data)
        lines = ["domain: skeleton", "data:", f"  source: {os.fspath(source)}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        if "layout" not in data and found.spec.kind == "skeleton":
            lines.append(f"  # layout: {found.spec.layout.name}   (as found)")
        if found.labels is None:
            lines.append("  # labels: labels.csv   (columns name, label, group; read by probes only)")
        return found.card(), "\n".join(lines) + "\n"
