"""The wrist opening and its cap; joint orders and fingertip sets by name."""

import itertools

import numpy as np
import pytest
import trimesh

from mano_jax.joint_orders import (
    FINGERS,
    FINGERTIP_VERTICES,
    JOINT_ORDERS,
    MANO16,
    MANO21,
    fingertip_vertices,
    index,
    permutation,
)
from mano_jax.kinematics import PARENTS
from mano_jax.topology import boundary_loop, cap_faces

SQUARE = np.array([[0, 1, 2], [0, 2, 3]])
TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


class TestBoundaryLoop:
    def test_walks_as_the_triangles_do(self):
        assert boundary_loop(SQUARE).tolist() == [0, 1, 2, 3]
        assert boundary_loop(SQUARE[:, ::-1]).tolist() == [0, 3, 2, 1]

    def test_hand_has_sixteen_vertices(self, right_model, left_model):
        right, left = boundary_loop(right_model.faces), boundary_loop(left_model.faces)
        assert len(right) == len(left) == 16
        assert right[0] == left[0] == right.min()
        assert right[1:].tolist() == left[1:][::-1].tolist(), "the left hand is wound the other way"

    def test_is_where_the_wrist_is(self, right_model):
        loop = right_model.v_template[boundary_loop(right_model.faces)]
        assert loop[:, 0].min() > np.quantile(right_model.v_template[:, 0], 0.8)

    def test_closed_mesh(self):
        with pytest.raises(ValueError, match="no boundary: a hand is open at the wrist"):
            boundary_loop(TETRAHEDRON)

    @pytest.mark.parametrize(
        "faces",
        [
            np.concatenate([SQUARE, SQUARE + 4]),  # two pieces, two loops
            np.array([[0, 1, 2], [2, 3, 4]]),  # two triangles that touch at a vertex
            np.array([[0, 1, 2], [2, 3, 4], [4, 5, 0]]),  # a ring of them: a hole inside
        ],
    )
    def test_no_simple_loop(self, faces):
        with pytest.raises(ValueError, match="not one simple loop: expected only the wrist"):
            boundary_loop(faces)


class TestCap:
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_closes_the_hand(self, right_model, left_model, side):
        model = {"right": right_model, "left": left_model}[side]
        cap = cap_faces(model.faces)
        assert cap.shape == (14, 3)
        mesh = trimesh.Trimesh(
            model.v_template, np.concatenate([model.faces, cap]), process=False, validate=False
        )
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.volume > 0, "the triangles should be counter-clockwise from outside"

    def test_caps_mirror_each_other(self, right_model, left_model):
        caps = [cap_faces(model.faces) for model in (right_model, left_model)]
        sets = [{frozenset(map(int, tri)) for tri in cap} for cap in caps]
        assert sets[0] == sets[1]

    def test_hands_carry_it(self, hands, right_model, left_model):
        for hand, model in enumerate((right_model, left_model)):
            np.testing.assert_array_equal(hands.cap_faces[hand], cap_faces(model.faces))


# Written out in the conventions of the other programs: target = source[..., list, :].
TABLES = {
    ("mano21", "openpose21"): "0 13 14 15 16 1 2 3 17 4 5 6 18 10 11 12 19 7 8 9 20",
    ("openpose21", "mano21"): "0 5 6 7 9 10 11 17 18 19 13 14 15 1 2 3 4 8 12 16 20",
    ("mano21", "interhand21"): "16 15 14 13 17 3 2 1 18 6 5 4 19 12 11 10 20 9 8 7 0",
    ("interhand21", "mano21"): "20 7 6 5 11 10 9 19 18 17 15 14 13 3 2 1 0 4 8 12 16",
    ("openpose21", "interhand21"): "4 3 2 1 8 7 6 5 12 11 10 9 16 15 14 13 20 19 18 17 0",
    ("interhand21", "openpose21"): "20 3 2 1 0 7 6 5 4 11 10 9 8 15 14 13 12 19 18 17 16",
    ("s2hand21", "openpose21"): "0 17 18 19 20 1 2 3 4 5 6 7 8 13 14 15 16 9 10 11 12",
    ("s2hand21", "mano21"): "0 1 2 3 5 6 7 9 10 11 13 14 15 17 18 19 20 4 8 16 12",
    ("rhd21", "openpose21"): "0 4 3 2 1 8 7 6 5 12 11 10 9 16 15 14 13 20 19 18 17",
    ("openpose21", "rhd21"): "0 4 3 2 1 8 7 6 5 12 11 10 9 16 15 14 13 20 19 18 17",
    ("openpose21", "biomech21"): "0 1 5 9 13 17 2 6 10 14 18 3 7 11 15 19 4 8 12 16 20",
    ("biomech21", "openpose21"): "0 1 6 11 16 2 7 12 17 3 8 13 18 4 9 14 19 5 10 15 20",
}


class TestJointOrders:
    @pytest.mark.parametrize("source, target", TABLES)
    def test_published_tables(self, source, target):
        expected = [int(number) for number in TABLES[source, target].split()]
        assert permutation(source, target).tolist() == expected

    @pytest.mark.parametrize("source, target", list(itertools.product(JOINT_ORDERS, repeat=2)))
    def test_round_trips(self, source, target):
        there, back = permutation(source, target), permutation(target, source)
        assert there[back].tolist() == back[there].tolist() == list(range(21))

    @pytest.mark.parametrize("order", JOINT_ORDERS)
    def test_every_order_has_the_same_joints(self, order):
        assert sorted(JOINT_ORDERS[order]) == sorted(MANO21)
        assert [index(name, order) for name in JOINT_ORDERS[order]] == list(range(21))

    def test_index_by_name(self):
        assert index("wrist") == 0 and index("thumb_tip") == 16
        assert index("wrist", "interhand21") == 20
        with pytest.raises(ValueError, match="'mano21' has no joint 'toe'; it has wrist, index1"):
            index("toe")

    @pytest.mark.parametrize("arguments", [("nobody21", "mano21"), ("mano21", "nobody21")])
    def test_unknown_order(self, arguments):
        with pytest.raises(ValueError, match="unknown joint order 'nobody21'; known: mano21"):
            permutation(*arguments)

    def test_the_tree_runs_along_each_finger(self):
        for joint, parent in enumerate(PARENTS[1:], start=1):
            finger, level = MANO16[joint][:-1], int(MANO16[joint][-1])
            expected = "wrist" if level == 1 else f"{finger}{level - 1}"
            assert MANO16[parent] == expected


class TestFingertips:
    def test_sets_of_other_programs(self):
        assert FINGERS == ("thumb", "index", "middle", "ring", "pinky")
        assert fingertip_vertices().tolist() == [[744, 320, 443, 554, 671]] * 2
        assert fingertip_vertices("manopth").tolist() == [
            [745, 317, 444, 556, 673],
            [745, 317, 445, 556, 673],
        ]
        assert fingertip_vertices("ho3d")[0].tolist() == [744, 333, 444, 555, 672]
        assert fingertip_vertices("freihand")[0].tolist() == [744, 320, 443, 555, 672]

    @pytest.mark.parametrize("name", FINGERTIP_VERTICES)
    def test_every_set_lies_at_the_fingertips(self, name, right_model):
        vertices = fingertip_vertices(name)
        assert vertices.shape == (2, 5)
        default = right_model.v_template[fingertip_vertices()[0]]
        for hand in range(2):
            distance = np.linalg.norm(right_model.v_template[vertices[hand]] - default, axis=-1)
            assert distance.max() < 8e-3

    def test_unknown_set(self):
        with pytest.raises(ValueError, match="unknown fingertip set 'toes'; known: smplx"):
            fingertip_vertices("toes")
