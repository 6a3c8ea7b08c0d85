"""The embedded hand keeps MANO's format, looks alive, and stays whole over its range of motion.

Parts, adjacency and depth are defined in `experiments.embedded_hand.intersections`.
"""

from importlib.resources import files

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from experiments.embedded_hand.angles import angles, columns_of
from experiments.embedded_hand.contact import Poser, skin_point, touch
from experiments.embedded_hand.intersections import (
    SelfIntersectionTest,
    distance_to_triangles,
    finger_depths,
    intersecting_pairs,
    winding_numbers,
)
from experiments.embedded_hand.numbering import WRIST_LOOP, tip_vertices
from experiments.embedded_hand.poses import named_poses, principal_components, sample_poses
from experiments.embedded_hand.posing import RiggedHand
from experiments.embedded_hand.remesh import EditableMesh, signed_volume
from experiments.embedded_hand.rig import joint_regressor, pose_correctives, skinning_weights
from experiments.embedded_hand.shapes import shape_directions
from experiments.embedded_hand.skeleton import FINGERS, PARENTS, first_joint, rest_skeleton
from mano_jax.procedural import embedded_hand_model
from mano_jax.topology import boundary_loop, cap_faces

SAMPLE_COUNT = 300

# Published proportions of the template that the format comes from: wrist to base joint, then the
# three phalanges, mm.
PUBLISHED_LENGTHS_MM = {
    "thumb": (38.6, 30.8, 27.1, 35.4),
    "index": (90.6, 33.0, 22.2, 25.5),
    "middle": (94.7, 31.7, 23.3, 26.3),
    "ring": (86.1, 28.8, 24.8, 25.8),
    "pinky": (81.8, 21.1, 18.9, 20.0),
}


@pytest.fixture(scope="module")
def model():
    return embedded_hand_model()


@pytest.fixture(scope="module")
def hand(model):
    return RiggedHand.from_model(model)


@pytest.fixture(scope="module")
def intersection_test(hand):
    return SelfIntersectionTest.of(hand.faces, hand.weights)


@pytest.fixture(scope="module")
def poser(hand, intersection_test):
    return Poser(rest_skeleton(), hand, intersection_test)


@pytest.fixture(scope="module")
def posed_samples(model, hand):
    """Vertices of pose samples spread evenly over the stored ones."""
    rows = np.linspace(0, len(model.pose_samples) - 1, SAMPLE_COUNT).astype(int)
    return [hand.posed(pose.reshape(15, 3)) for pose in model.pose_samples[rows]]


def capped_volume_cm3(vertices, faces):
    return 1e6 * signed_volume(vertices, np.vstack([faces, cap_faces(faces)]))


def gap_between_ends(vertices, hand, finger, other):
    """Least distance between vertices of two fingers' last phalanges, metres."""
    parts = hand.weights.argmax(1)
    ends = [vertices[parts == first_joint(name) + 2] for name in (finger, other)]
    return np.linalg.norm(ends[0][:, None] - ends[1], axis=2).min()


def stored_arrays():
    with (files("mano_jax") / "data" / "embedded_hand.npz").open("rb") as file:
        with np.load(file) as arrays:
            return {key: arrays[key] for key in arrays.files}


# ---- format -----------------------------------------------------------------------------------


def test_file_has_official_names_and_shapes_and_is_small():
    shapes = {key: value.shape for key, value in stored_arrays().items()}
    samples = shapes.pop("hands_coeffs")
    assert samples[1:] == (45,) and 400 <= samples[0] <= 600
    assert shapes == {
        "v_template": (778, 3),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "J_regressor": (16, 778),
        "weights": (778, 16),
        "f": (1538, 3),
        "kintree_table": (2, 16),
        "hands_components": (45, 45),
        "hands_mean": (45,),
    }
    assert len((files("mano_jax") / "data" / "embedded_hand.npz").read_bytes()) < 500_000


def test_kinematic_table_is_mano_s():
    parents, joints = stored_arrays()["kintree_table"]
    assert tuple(parents[1:]) == PARENTS[1:]
    assert tuple(joints) == tuple(range(16))


def test_weights_and_regressor_are_convex_combinations(model):
    for rows in (model.lbs_weights, model.J_regressor):
        assert rows.min() >= 0
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    assert (model.lbs_weights > 0).sum(1).max() <= 8


# ---- mesh -------------------------------------------------------------------------------------


def test_capped_mesh_is_watertight_and_winds_outwards(model):
    closed = np.vstack([model.faces, cap_faces(model.faces)])
    mesh = trimesh.Trimesh(model.v_template, closed, process=False)
    assert len(closed) == 1552
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
    assert mesh.volume > 0


def test_wrist_loop_carries_the_published_ids(model):
    loop = boundary_loop(model.faces).tolist()[::-1]
    start = loop.index(WRIST_LOOP[0])
    assert tuple(loop[start:] + loop[:start]) == WRIST_LOOP


def test_triangles_are_well_shaped(model):
    corners = model.v_template[model.faces]
    sides = corners[:, [1, 2, 0]] - corners
    lengths = np.linalg.norm(sides, axis=2)
    unit = sides / lengths[..., None]
    corner_angles = np.degrees(np.arccos(-(unit * np.roll(unit, 1, axis=1)).sum(2)))
    assert corner_angles.min() > 20
    assert 1.5e-3 < lengths.min() and lengths.max() < 20e-3
    assert np.bincount(model.faces.ravel()).max() <= 8


def test_lies_in_the_template_frame(hand):
    assert np.linalg.norm(hand.joints[0] - (0.095, 0.006, 0.006)) < 2e-3
    middle, thumb = (
        hand.joints[first_joint(name)] - hand.joints[0] for name in ("middle", "thumb")
    )
    assert middle[0] < -0.08 and abs(middle[1:]).max() < 0.01
    assert thumb[2] > 0.02 and thumb[1] < -0.01


def test_bone_lengths_are_adult_but_its_own(hand):
    ratios = []
    for finger, published in PUBLISHED_LENGTHS_MM.items():
        start = first_joint(finger)
        tip = hand.v_template[tip_vertices(finger)[0]]
        chain = [hand.joints[0], *hand.joints[start : start + 3], tip]
        lengths = np.linalg.norm(np.diff(chain, axis=0), axis=1) * 1e3
        ratios.append(lengths / published)
    assert np.abs(np.array(ratios) - 1).max() < 0.15
    assert np.median(np.abs(np.array(ratios) - 1)) > 0.02


def test_volume_is_an_adult_s(model):
    assert 290 < capped_volume_cm3(model.v_template, model.faces) < 390


@pytest.mark.parametrize("finger", FINGERS)
def test_tip_vertices_lie_on_their_fingertips(hand, finger):
    tip, *others = hand.v_template[tip_vertices(finger)]
    end_joint = hand.joints[first_joint(finger) + 2]
    parts = hand.weights.argmax(1)
    own = hand.v_template[parts == first_joint(finger) + 2]
    along = (tip - end_joint) / np.linalg.norm(tip - end_joint)
    # Nothing of the finger reaches further out than its tip.
    assert ((own - tip) @ along).max() < 0.5e-3
    assert max(np.linalg.norm(other - tip) for other in others) < 8e-3


def test_rest_and_mean_pose_do_not_intersect(model, hand, intersection_test):
    for pose in (np.zeros(45), model.pose_mean):
        vertices = hand.posed(pose.reshape(15, 3))
        assert len(intersection_test.pairs(vertices, distant_only=False)) == 0


# ---- range of motion --------------------------------------------------------------------------


def test_samples_hardly_intersect(posed_samples, intersection_test):
    most = max(len(np.unique(intersection_test.pairs(vertices))) for vertices in posed_samples)
    assert most <= 0.02 * 1538


def test_samples_keep_fingers_out_of_fingers(posed_samples, hand):
    depths = [finger_depths(v, hand.faces, hand.weights).max() for v in posed_samples]
    assert max(depths) < 5e-3


def test_samples_keep_their_volume(posed_samples, model):
    rest = capped_volume_cm3(model.v_template, model.faces)
    volumes = np.array([capped_volume_cm3(v, model.faces) for v in posed_samples])
    assert np.abs(volumes / rest - 1).max() < 0.15


def test_samples_include_fists_spreads_and_oppositions(posed_samples, hand):
    posed = np.array(posed_samples)
    tips = {finger: posed[:, tip_vertices(finger)[0]] for finger in FINGERS}
    palm = hand.joints[[0, 4]].mean(0)
    reach = [np.linalg.norm(tips[finger] - palm, axis=1) for finger in FINGERS[:4]]
    assert (np.max(reach, axis=0) < 0.05).mean() > 0.05
    assert (np.linalg.norm(tips["index"] - tips["pinky"], axis=1) > 0.10).mean() > 0.05
    for finger in FINGERS[:4]:
        gaps = [gap_between_ends(vertices, hand, "thumb", finger) for vertices in posed]
        assert (np.array(gaps) < 4e-3).sum() >= 5


def test_pose_statistics_are_consistent(model):
    components = model.pose_components
    np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-5)
    mean, rows, coefficients = principal_components(model.pose_samples)
    np.testing.assert_allclose(mean, model.pose_mean, atol=1e-5)
    np.testing.assert_allclose(coefficients @ rows + mean, model.pose_samples, atol=1e-9)
    variances = ((model.pose_samples - mean) @ components.T).var(0)
    assert (np.diff(variances) < 1e-6).all()
    assert variances[-1] > np.radians(0.5) ** 2


def test_named_poses_touch_where_they_should(poser, hand):
    poses = named_poses(poser)
    for name, finger in (("pinch", "index"), ("little-finger touch", "pinky")):
        assert gap_between_ends(hand.posed(poses[name]), hand, "thumb", finger) < 4e-3
    fist = hand.posed(poses["fist"])
    parts = hand.weights.argmax(1)
    for finger in FINGERS[:4]:
        tip = fist[parts == first_joint(finger) + 2]
        palm = fist[np.isin(parts, (0, first_joint("thumb")))]
        assert np.linalg.norm(tip[:, None] - palm, axis=2).min() < 6e-3


# ---- blend shapes -----------------------------------------------------------------------------


def test_correctives_are_smooth_and_keep_a_bent_joint_full(hand):
    rotations = np.tile(np.eye(3), (15, 1, 1))
    rotations[1] = Rotation.from_rotvec(np.radians(90) * rest_skeleton().axes()[2, 0]).as_matrix()
    offsets = hand.posedirs @ (rotations - np.eye(3)).ravel()
    assert 1e-3 < np.linalg.norm(offsets, axis=1).max() < 8e-3
    edges = np.concatenate([hand.faces[:, [0, 1]], hand.faces[:, [1, 2]], hand.faces[:, [2, 0]]])
    step = np.linalg.norm(offsets[edges[:, 0]] - offsets[edges[:, 1]], axis=1)
    length = np.linalg.norm(hand.v_template[edges[:, 0]] - hand.v_template[edges[:, 1]], axis=1)
    # Below 1, neighbours cannot change places.
    assert (step / length).max() < 0.8


def test_shapes_are_ten_different_bodies(hand, intersection_test):
    flat = hand.shapedirs.reshape(-1, 10)
    assert np.linalg.cond(flat / np.linalg.norm(flat, axis=0)) < 30
    for column in range(10):
        for sigmas in (-3.0, 3.0):
            vertices = hand.shaped(sigmas * np.eye(10)[column]).v_template
            assert len(intersection_test.pairs(vertices, distant_only=False)) == 0
            assert 200 < capped_volume_cm3(vertices, hand.faces) < 520


# ---- the generator's parts --------------------------------------------------------------------


def test_stored_rig_is_what_the_generator_makes(hand):
    skeleton = rest_skeleton()
    np.testing.assert_allclose(hand.joints, skeleton.joints, atol=1e-5)
    for row, finger in enumerate(FINGERS):
        tip = hand.v_template[tip_vertices(finger)[0]]
        np.testing.assert_allclose(tip, skeleton.tips[row], atol=1e-4)
    weights = skinning_weights(hand.v_template, hand.faces, skeleton)
    # Single precision may tip a vertex on a dividing plane: bound the share, not the maximum.
    assert (np.abs(weights - hand.weights).max(1) > 1e-3).mean() < 0.01
    correctives = pose_correctives(hand.v_template, hand.weights, hand.joints, skeleton)
    np.testing.assert_allclose(correctives, hand.posedirs, atol=2e-5)
    np.testing.assert_allclose(shape_directions(hand, skeleton), hand.shapedirs, atol=1e-6)


def test_joint_regressor_meets_its_joints(hand):
    joints = rest_skeleton().joints
    regressor = joint_regressor(hand.v_template, joints)
    np.testing.assert_allclose(regressor @ hand.v_template, joints, atol=1e-6)
    assert (regressor >= 0).all()


def test_pose_samples_depend_on_their_seed_alone(poser):
    first, again, other = (sample_poses(poser, 6, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_touch_brings_skin_together(poser):
    pads = [skin_point(poser.hand, finger, 2, 0.6, 1) for finger in ("thumb", "middle")]
    free = np.concatenate([columns_of("thumb"), columns_of("middle")])
    start = angles(middle=(50, 40, 20), thumb=(40, 10, 20, 0, 15, 20))
    joined = touch(start, [(pads[0], pads[1])], free, poser.hand)
    unmoved = np.setdiff1d(np.arange(22), free)
    np.testing.assert_array_equal(joined[unmoved], start[unmoved])
    tips = [poser.rigged.posed(poser.pose(joined))[tip_vertices(f)[0]] for f in ("thumb", "middle")]
    assert np.linalg.norm(tips[0] - tips[1]) < 0.02


def test_mesh_edits_keep_a_disc(model):
    mesh = EditableMesh(model.v_template, model.faces)
    rng = np.random.default_rng(0)
    done = {"split": 0, "collapse": 0, "flip": 0}
    for _ in range(150):
        edges = mesh.edges()
        edge = edges[rng.integers(len(edges))]
        action = list(done)[rng.integers(3)]
        done[action] += getattr(mesh, action)(*edge)
    done["flip"] += sum(mesh.flip(*edge) for edge in mesh.edges())
    assert min(done.values()) > 0
    vertices, faces, _ = mesh.compact()
    assert len(boundary_loop(faces)) >= 3
    closed = np.vstack([faces, cap_faces(faces)])
    result = trimesh.Trimesh(vertices, closed, process=False)
    assert result.is_watertight and result.is_winding_consistent and result.euler_number == 2


# ---- the measures themselves ------------------------------------------------------------------


def test_intersections_of_two_triangles():
    vertices = np.array(
        [[0, 0, 0], [4, 0, 0], [0, 4, 0], [1, 1, -1], [1, 1, 1], [2, 9, 0.5]], float
    )
    faces, mask = np.array([[0, 1, 2], [3, 4, 5]]), np.triu(np.ones((2, 2), bool), 1)
    assert intersecting_pairs(vertices, faces, mask).tolist() == [[0, 1]]
    vertices[3:] += (0, 0, 1.5)
    assert len(intersecting_pairs(vertices, faces, mask)) == 0


def test_winding_and_distance_of_a_sphere():
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    triangles = np.asarray(sphere.triangles)
    points = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0, 1.5]], float)
    np.testing.assert_allclose(winding_numbers(points, triangles), [1, 1, 0], atol=1e-9)
    np.testing.assert_allclose(distance_to_triangles(points, triangles), [1, 0.5, 0.5], atol=0.01)


def test_depth_notices_a_finger_pushed_into_another(hand):
    pushed = hand.v_template.copy()
    middle = np.isin(hand.weights.argmax(1), (5, 6))
    index = np.isin(hand.weights.argmax(1), (2, 3))
    pushed[middle] += pushed[index].mean(0) - pushed[middle].mean(0) + (0, 0, 0.002)
    assert finger_depths(hand.v_template, hand.faces, hand.weights).max() == 0
    assert finger_depths(pushed, hand.faces, hand.weights).max() > 1e-3
