"""What joints are for, by the names that the flavours of the shelf and their kin use."""

from __future__ import annotations

import pytest

from motion.roles import between, chain, find_roles, side_of
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, quietly, shortened

LEFT = ("hip", "knee", "ankle", "toe", "clavicle", "shoulder", "elbow", "hand")
EXPECTED = {
    "cmu_asf": ("root", "thorax", "head", "lfemur", "ltibia", "lfoot", "ltoes", "lclavicle", "lhumerus", "lradius",
                "lhand"),
    "gazebo": ("Hips", "Spine1", "Head", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase", "LeftShoulder", "LeftArm",
               "LeftForeArm", "LeftHand"),
    "cmu91": ("hip", "chest", "head", "lThigh", "lShin", "lFoot", None, "lCollar", "lShldr", "lForeArm", "lHand"),
    "jl": ("Hips", "UpperChest", "Head", "LeftUpperLeg", "LeftLowerLeg", "LeftFoot", "LeftToes", "LeftShoulder",
           "LeftUpperArm", "LeftLowerArm", "LeftHand"),
    "bandai": ("Hips", "Chest", "Head", "UpperLeg_L", "LowerLeg_L", "Foot_L", "Toes_L", "Shoulder_L", "UpperArm_L",
               "LowerArm_L", "Hand_L"),
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("flavour", EXPECTED)
def test_roles_of_the_shelf_are_found_on_both_sides(flavour, data_file, tmp_path):
    skeleton = quietly(shortened(data_file(FLAVOURS[flavour]), tmp_path, 5)).skeleton
    found = {role: skeleton.names[joint] for role, joint in skeleton.roles.items()}
    middle = dict(zip(("hips", "chest", "head"), EXPECTED[flavour][:3], strict=True))
    left = {f"left_{role}": name for role, name in zip(LEFT, EXPECTED[flavour][3:], strict=True) if name is not None}
    right = {role.replace("left", "right"): side_of(name, skeleton.names)[2] for role, name in left.items()}
    assert found == middle | left | right


def test_shoulders_are_upper_arms_where_nothing_else_is_and_feet_are_toes_behind_ankles():
    smpl = ["pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "left_ankle", "right_ankle",
            "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
            "left_elbow", "right_elbow", "left_wrist", "right_wrist"]  # fmt: skip
    parents = [-1, 0, 0, 0, 1, 2, 4, 5, 6, 7, 3, 3, 3, 10, 11, 12, 14, 15, 16, 17]
    roles = {role: smpl[joint] for role, joint in find_roles(smpl, parents).items()}
    assert roles["left_shoulder"] == "left_shoulder"
    assert roles["left_clavicle"] == "left_collar"
    assert (roles["left_ankle"], roles["left_toe"]) == ("left_ankle", "left_foot")
    assert (roles["hips"], roles["chest"], roles["head"]) == ("pelvis", "spine1", "head")
    assert roles["right_hand"] == "right_wrist"


@pytest.mark.parametrize(
    ("name", "partner", "stem"),
    [
        ("LeftUpLeg", "RightUpLeg", "upleg"), ("mixamorig:LeftArm", "mixamorig:RightArm", "arm"),
        ("lfemur", "rfemur", "femur"), ("lShldr", "rShldr", "shldr"), ("LHipJoint", "RHipJoint", "hipjoint"),
        ("Foot_L", "Foot_R", "foot"), ("upper_arm.L", "upper_arm.R", "upperarm"),
        ("Bip01 L Thigh", "Bip01 R Thigh", "thigh"), ("left_hip", "right_hip", "hip"), ("LEFT_TOE", "RIGHT_TOE", "toe"),
    ],
)  # fmt: skip
def test_sides_of_names(name, partner, stem):
    assert side_of(name, [name, partner]) == ("left", stem, partner)
    assert side_of(partner, [name, partner]) == ("right", stem, name)


@pytest.mark.parametrize("name", ["lowerback", "root", "Reference", "Neck", "LThumb"])
def test_a_name_without_a_partner_has_no_side(name):
    assert side_of(name, [name, "lfemur", "rfemur"]) is None


def test_contact_joints_belong_to_the_skeleton():
    skeleton = body()
    named = [[skeleton.names[joint] for joint in foot] for foot in skeleton.feet]
    assert named == [["LeftFoot", "LeftToe"], ["RightFoot", "RightToe"]]
    assert [skeleton.names[joint] for joint in skeleton.toes] == ["LeftToe", "RightToe"]
    assert [skeleton.names[joint] for joint in skeleton.seat] == ["Hips", "LeftUpLeg", "RightUpLeg"]
    assert [skeleton.names[joint] for joint in skeleton.hands] == ["LeftHand", "RightHand"]


def test_roles_can_be_given_and_wrong_ones_are_told():
    given = body().with_roles({"left_toe": "LeftFoot"})
    assert given.names[given.roles["left_toe"]] == "LeftFoot"
    with pytest.raises(InputError, match="Tail"):
        body().with_roles({"left_toe": "Tail"})
    with pytest.raises(InputError, match="left_tow"):
        body().with_roles({"left_tow": "LeftFoot"})


def test_lines_in_the_tree():
    parents = [-1, 0, 1, 2, 1]
    assert chain(3, parents) == [3, 2, 1, 0]
    assert between(0, 3, parents) == [1, 2, 3]
    assert between(2, 4, parents) == []
