"""The layouts that data sets and pose estimators use."""

from __future__ import annotations

from ssl_domains.skeleton.layouts import Layout, make

_NTU = (
    *("spine_base", "spine_mid", "neck", "head"),
    *("left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    *("right_shoulder", "right_elbow", "right_wrist", "right_hand"),
    *("left_hip", "left_knee", "left_ankle", "left_foot"),
    *("right_hip", "right_knee", "right_ankle", "right_foot"),
    *("spine_shoulder", "left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"),
)
# One-based pairs (joint, neighbour nearer to the centre), as 2s-AGCN's and the later code bases have them.
_NTU_BONES = (
    *(
        (1, 2),
        (2, 21),
        (3, 21),
        (4, 3),
        (5, 21),
        (6, 5),
        (7, 6),
        (8, 7),
        (9, 21),
        (10, 9),
        (11, 10),
        (12, 11),
    ),
    *((13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19)),
    *((22, 8), (23, 8), (24, 12), (25, 12)),
)


def _sides(text: str) -> dict[str, str]:
    """Bones ``child: parent`` for both sides, from words with an ``S`` for the side."""
    pairs = [word.split(">") for word in text.split()]
    both = [(c, p) for c, p in pairs if "S_" not in c]
    for side in ("left", "right"):
        both += [(c.replace("S_", f"{side}_"), p.replace("S_", f"{side}_")) for c, p in pairs if "S_" in c]
    return dict(both)


def _ntu() -> Layout:
    parents = [-1] * 25
    for child, parent in _NTU_BONES:
        parents[child - 1] = parent - 1
    return make("ntu-25", _NTU, parents, root="spine_mid")


_COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip
_COCO_BONES = _sides(
    "S_eye>nose S_ear>S_eye S_shoulder>nose S_elbow>S_shoulder S_wrist>S_elbow S_hip>S_shoulder "
    "S_knee>S_hip S_ankle>S_knee"
)
_OPENPOSE_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
_OPENPOSE_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
_OPENPOSE_UPPER = "nose>neck S_shoulder>neck S_elbow>S_shoulder S_wrist>S_elbow S_eye>nose S_ear>S_eye "
_MEDIAPIPE = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index",
    "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
_MEDIAPIPE_BONES = _sides(
    "S_eye_inner>nose S_eye>S_eye_inner S_eye_outer>S_eye S_ear>S_eye_outer S_shoulder>nose "
    "S_elbow>S_shoulder S_wrist>S_elbow S_pinky>S_wrist S_index>S_wrist S_thumb>S_wrist S_hip>S_shoulder "
    "S_knee>S_hip S_ankle>S_knee S_heel>S_ankle S_foot_index>S_heel"
) | {"mouth_left": "nose", "mouth_right": "nose"}
# Joints of the CMU motion capture library in its usual BVH conversion (end sites left out).
_CMU = (
    "Hips", "LHipJoint", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase", "RHipJoint", "RightUpLeg",
    "RightLeg", "RightFoot", "RightToeBase", "LowerBack", "Spine", "Spine1", "Neck", "Neck1", "Head",
    "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand", "LeftFingerBase", "LeftHandIndex1", "LThumb",
    "RightShoulder", "RightArm", "RightForeArm", "RightHand", "RightFingerBase", "RightHandIndex1", "RThumb",
)  # fmt: skip
_CMU_PARENTS = (
    *(-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15),
    *(13, 17, 18, 19, 20, 21, 20, 13, 24, 25, 26, 27, 28, 27),
)
_CMU_PARTS = {
    "trunk": ("Hips", "LowerBack", "Spine", "Spine1", "Neck", "Neck1"),
    "head": ("Head",),
    **{f"{side.lower()} leg": (f"{side[0]}HipJoint",
                               *(f"{side}{j}" for j in ("UpLeg", "Leg", "Foot", "ToeBase")))
       for side in ("Left", "Right")},
    **{f"{side.lower()} arm": (*(f"{side}{j}" for j in ("Shoulder", "Arm", "ForeArm", "Hand", "FingerBase",
                                                        "HandIndex1")), f"{side[0]}Thumb")
       for side in ("Left", "Right")},
}  # fmt: skip
_CMU_PAIRS = [(j, "Right" + j[4:]) for j in _CMU if j.startswith("Left")]
_CMU_PAIRS += [("LHipJoint", "RHipJoint"), ("LThumb", "RThumb")]

LAYOUTS: dict[str, Layout] = {
    "ntu-25": _ntu(),
    "openpose-25": make(
        "openpose-25",
        _OPENPOSE_25,
        _sides(
            _OPENPOSE_UPPER + "mid_hip>neck S_hip>mid_hip S_knee>S_hip S_ankle>S_knee S_heel>S_ankle "
            "S_big_toe>S_ankle S_small_toe>S_big_toe"
        ),
        root="mid_hip",
    ),
    "coco-17": make("coco-17", _COCO, _COCO_BONES, root="nose"),
    "openpose-18": make(
        "openpose-18",
        _OPENPOSE_18,
        _sides(_OPENPOSE_UPPER + "S_hip>neck S_knee>S_hip S_ankle>S_knee"),
        root="neck",
    ),
    "mediapipe-33": make("mediapipe-33", _MEDIAPIPE, _MEDIAPIPE_BONES, root="nose"),
    "cmu-31": make("cmu-31", _CMU, _CMU_PARENTS, "Hips", _CMU_PAIRS, _CMU_PARTS),
}
"""By name. The first of several with one number of joints is the guess; 25 joints are taken for NTU's."""
