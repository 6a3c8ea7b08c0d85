"""Other programs' formats: written, read by other means, and back where they came from."""

# Optional fields are there because the test put them there.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation
from trimesh.visual import ColorVisuals, TextureVisuals

from fitting.adapters.table import read_table
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.exporters import EXPORTERS, check_export, export
from fitting.exporters.glb import MOST_FRAMES
from fitting.exporters.gltf import GlbBuilder
from fitting.exporters.surfaces import COLOURS
from fitting.parameters import wrists
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import JOINT_ORDERS, fingertip_vertices
from mano_jax.model import SIDES
from mano_jax.topology import cap_faces
from tests.export_readers import read_glb
from tests.reference_hand import pose_one_hand

BOTH, RIGHT, LEFT, SKIPPED, NONE, LAST = range(6)
STATUS = np.array([0, 1, 0, 2, 2, 0])
PLACES = [(BOTH, 0), (BOTH, 1), (RIGHT, 0), (LEFT, 1), (LAST, 0), (LAST, 1)]
"""Frames and hands that are written."""
TO_OPENGL = np.diag([1.0, -1.0, -1.0])
FOLDERS = {"ho3d", "obj", "ply", "glb"}
SUFFIXES = {name: exporter.suffix for name, exporter in EXPORTERS.items()}


@pytest.fixture(scope="module")
def result() -> TwoHandPredictions:
    """A result's frames, some with a hand or two missing, one skipped."""
    rng = np.random.default_rng(3)
    valid = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1]], bool)
    pose = 0.4 * rng.normal(size=(6, 2, 15, 3))
    pose[SKIPPED, 0] = np.nan
    tau = np.array([0.15, 0.03, -0.05]) + 0.02 * rng.normal(size=(6, 3))
    return TwoHandPredictions(
        hand_valid=valid,
        global_orient=1.5 * rng.normal(size=(6, 2, 3)),
        hand_pose=pose,
        betas=rng.normal(size=(6, 2, 10)),
        relative_transl=np.where(valid.all(1, keepdims=True), tau, 0.0),
        root_transl=np.array([-0.1, 0.05, 0.6]) + 0.05 * rng.normal(size=(6, 3)),
        K=np.tile(np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]]), (6, 1, 1, 1)),
        frame_id=np.array([f"clip/{n}" for n in range(6)]),
        timestamp=100 + np.array([0, 0.04, 0.08, 0.1, 0.2, 0.25]),
    )


@pytest.fixture(scope="module")
def truth(result, right_model, left_model) -> dict:
    """Vertices and joints of every written hand where the camera sees it, by the oracle."""
    found = {}
    for n, hand in PLACES:
        model = (right_model, left_model)[hand]
        vertices, joints = _oracle(
            model,
            result.global_orient[n, hand],
            result.hand_pose[n, hand],
            result.betas[n, hand],
            np.zeros(3),
        )
        wrist = result.root_transl[n].astype(float)
        if n in (BOTH, LAST) and hand == 1:
            wrist = wrist + result.relative_transl[n]
        found[n, hand] = vertices + wrist - joints[0], joints + wrist - joints[0]
    return found


def _oracle(model, orient, pose, betas, transl, tips=None):
    tips = fingertip_vertices()[SIDES.index(model.side)] if tips is None else tips
    return pose_one_hand(
        model,
        tips,
        global_orient=np.asarray(orient, float),
        hand_pose=np.asarray(pose, float).reshape(15, 3),
        betas=np.asarray(betas, float),
        transl=np.asarray(transl, float),
    )


def close(found, expected, tolerance=1e-5):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance


@pytest.fixture(scope="module")
def exported(result, hands, tmp_path_factory) -> dict[str, Path]:
    """Every format, written once; parquet has its own test."""
    root = tmp_path_factory.mktemp("exported")
    paths = {name: root / (name + suffix) for name, suffix in SUFFIXES.items()}
    del paths["parquet"]
    for name, path in paths.items():
        export(path, result, hands, to=name, status=STATUS)
    return paths


# ---- parameters


def test_canonical_comes_back_as_it_was(exported, result):
    back = read_predictions(exported["canonical"])
    for name, array in result.arrays().items():
        np.testing.assert_array_equal(getattr(back, name), array)


def test_smplx_poses_the_same_hands_with_a_flat_mean(exported, truth, right_model, left_model):
    with np.load(exported["smplx"]) as file:
        arrays = dict(file)
    assert arrays["flat_hand_mean"].item() is True
    assert [arrays["hand_valid"][n].tolist() for n in range(6)] == [
        [(n, h) in truth for h in range(2)] for n in range(6)
    ]
    assert arrays["frame_id"].tolist() == [f"clip/{n}" for n in range(6)]
    for (n, hand), (vertices, joints) in truth.items():
        names = ("global_orient", "hand_pose", "betas", "transl")
        values = [arrays[f"{SIDES[hand]}_{name}"][n] for name in names]
        found = _oracle((right_model, left_model)[hand], *values)
        close(found[0], vertices)
        close(found[1], joints)
    assert not arrays["right_hand_pose"][LEFT].any() and not arrays["left_transl"][SKIPPED].any()


def test_interhand_has_no_mean_and_null_for_no_hand(exported, truth, right_model, left_model):
    text = exported["interhand"].read_text()
    assert "NaN" not in text and "Infinity" not in text
    content = json.loads(text)
    assert list(content) == ["clip"] and list(content["clip"]) == [str(n) for n in range(6)]
    for n in range(6):
        for hand, model in enumerate((right_model, left_model)):
            entry = content["clip"][str(n)][SIDES[hand]]
            assert (entry is None) == ((n, hand) not in truth)
            if entry is None:
                continue
            assert {k: len(v) for k, v in entry.items()} == {"pose": 48, "shape": 10, "trans": 3}
            pose = np.array(entry["pose"])
            absolute = pose[3:] + model.pose_mean
            found = _oracle(model, pose[:3], absolute, entry["shape"], entry["trans"])
            close(found[0], truth[n, hand][0])


def test_interhand_keys_tell_frames_apart(result, hands, tmp_path):
    names = ["0", "a/b/c", "7/1", "7/2", "8/1", "x"]
    path = tmp_path / "a.json"
    export(path, replace(result, frame_id=np.array(names)), hands, to="interhand", status=STATUS)
    content = json.loads(path.read_text())
    assert {c: list(f) for c, f in content.items()} == {
        "0": ["0", "a/b/c", "x"],
        "7": ["1", "2"],
        "8": ["1"],
    }
    twice = replace(result, frame_id=np.array(["7/1", *names[1:]]))
    with pytest.raises(InputError, match="frames 0 and 2 are both frame '1' of capture '7'"):
        export(tmp_path / "b.json", twice, hands, to="interhand", status=STATUS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def _ho3d(folder: Path) -> dict[int, dict]:
    with (folder / "frames.json").open() as file:
        names = json.load(file)
    files = {path.stem: path for path in (folder / "meta").iterdir()}
    assert set(files) == set(names)
    assert all(name == f"clip/{int(stem)}" for stem, name in names.items())
    return {int(stem): pickle.loads(path.read_bytes()) for stem, path in files.items()}


def test_ho3d_is_in_opengl_axes_with_the_mean(exported, truth, result, right_model):
    metas = _ho3d(exported["ho3d"])
    assert set(metas) == {BOTH, RIGHT, LEFT, LAST}
    assert set(metas[RIGHT]) == {"handPose", "handTrans", "handBeta", "handJoints3D", "camMat"}
    for n, prefix in ((RIGHT, "hand"), (BOTH, "rightHand"), (LAST, "rightHand")):
        meta = metas[n]
        found = _oracle(
            right_model,
            meta[f"{prefix}Pose"][:3],
            meta[f"{prefix}Pose"][3:],
            meta["handBeta"],
            meta[f"{prefix}Trans"],
            tips=(744, 333, 444, 555, 672),
        )
        close(found[0] @ TO_OPENGL, truth[n, 0][0])
        close(meta[f"{prefix}Joints3D"], found[1])
        close(meta["camMat"], result.K[n, 0].astype(float))


def test_h2o3d_left_hands_keep_wrist_pose_and_joints(exported, truth, right_model, left_model):
    metas = _ho3d(exported["ho3d"])
    # The raw left file has the right one's shape directions; H2O-3D turns all their signs.
    h2o3d = replace(left_model, shapedirs=-right_model.shapedirs)
    for n in (BOTH, LEFT, LAST):
        meta = metas[n]
        vertices, joints = truth[n, 1]
        tips = vertices[[744, 333, 444, 555, 672]]
        close(meta["leftHandJoints3D"], np.concatenate([joints[:16], tips]) @ TO_OPENGL)
        pose, trans = meta["leftHandPose"], meta["leftHandTrans"]
        _, found = _oracle(h2o3d, pose[:3], pose[3:], meta["handBeta"], trans)
        close(found[0], joints[0] @ TO_OPENGL)
    assert not metas[LEFT]["handBeta"].any() and "rightHandPose" not in metas[LEFT]


def test_ho3d_pickles_open_everywhere(exported):
    for path in (exported["ho3d"] / "meta").iterdir():
        data = path.read_bytes()
        # NumPy 1 has no numpy._core, Python 2 no protocol beyond 2.
        assert data[:2] == b"\x80\x02" and b"numpy._core" not in data
        assert all(type(x) is np.ndarray for x in pickle.loads(data, encoding="latin1").values())


# ---- joints


@pytest.mark.parametrize("order", [None, *JOINT_ORDERS])
def test_joints_go_round_through_a_table(order, result, hands, truth, tmp_path):
    path = tmp_path / "joints.csv"
    export(path, result, hands, to="joints_csv", status=STATUS, order=order)
    header = path.read_text().splitlines()[0].split(",")
    named = [title.split("_", 1)[1].removesuffix("_x_m") for title in header[1:64:3]]
    assert named == list(JOINT_ORDERS[order or "mano21"])
    back = read_table(path)
    assert back.frame_names.tolist() == result.frame_names.tolist()
    for n in range(6):
        for hand in range(2):
            assert back.hand_valid[n, hand] == ((n, hand) in truth)
            if (n, hand) in truth:
                close(back.joints_3d[n, hand, :, :3], truth[n, hand][1])


def test_parquet_has_joints_and_parameters(result, hands, truth, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    path = tmp_path / "a.parquet"
    export(path, result, hands, to="parquet", status=STATUS, order="openpose21")
    table = parquet.read_table(path).to_pydict()
    assert table["frame_id"] == result.frame_names.tolist()
    assert table["timestamp"] == result.timestamp.tolist()
    assert table["right_wrist_x_m"][LEFT] is None and table["left_betas_3"][RIGHT] is None
    for (n, hand), (_, joints) in truth.items():
        side = SIDES[hand]
        assert table[f"{side}_valid"][n]
        found = [table[f"{side}_pinky_tip_{axis}_m"][n] for axis in "xyz"]
        close(found, joints[20])
        pose = [table[f"{side}_hand_pose_{i}"][n] for i in range(45)]
        close(pose, result.hand_pose[n, hand].ravel())


def test_parquet_without_pyarrow_says_what_to_install(result, hands, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install"):
        export(tmp_path / "a.parquet", result, hands, to="parquet", status=STATUS)
    assert not list(tmp_path.iterdir())


# ---- meshes


def _check_mesh(vertices, faces, hand, hands, expected):
    """The right surface, in metres, and facing outwards."""
    close(vertices, expected)
    np.testing.assert_array_equal(faces, np.asarray(hands.faces[hand]))
    closed = np.concatenate([faces, cap_faces(faces)])
    solid = trimesh.Trimesh(vertices, closed, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    assert 1e-4 < solid.volume < 1e-3
    assert 0.08 < np.ptp(vertices, axis=0).max() < 0.3


def _outwards(vertices, normals, faces):
    """Normals are of length one and near those that trimesh weighs by angle, but for creases."""
    close(np.linalg.norm(normals, axis=1), np.ones(len(normals)), 1e-3)
    own = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    assert np.mean(np.sum(own * normals, axis=1) > 0.9) > 0.95


@pytest.mark.parametrize("n", [BOTH, RIGHT, LEFT, LAST])
def test_obj_opens_with_both_hands(n, exported, truth, hands):
    path = exported["obj"] / f"{n:04d}.obj"
    objects, current = {}, None
    for line in path.read_text().splitlines():
        kind, *words = line.split()
        if kind == "o":
            current = objects.setdefault(words[0], {"v": [], "vn": [], "f": []})
        elif kind == "usemtl":
            assert words == [list(objects)[-1]]
        elif kind in ("v", "vn", "f"):
            assert current is not None
            current[kind].append([word.split("//") for word in words])
    assert list(objects) == [SIDES[h] for h in range(2) if (n, h) in truth]
    first = 1
    for side, parts in objects.items():
        hand = SIDES.index(side)
        vertices, normals = (np.array(parts[k], float)[..., 0] for k in ("v", "vn"))
        corners = np.array(parts["f"], int)
        assert (corners[..., 0] == corners[..., 1]).all()
        _check_mesh(vertices, corners[..., 0] - first, hand, hands, truth[n, hand][0])
        _outwards(vertices, normals, corners[..., 0] - first)
        first += len(vertices)
    scene = trimesh.load_scene(path)
    assert set(scene.geometry) == set(objects)
    for hand, side in enumerate(SIDES):
        if side not in objects:
            continue
        mesh, (vertices, _) = scene.geometry[side], truth[n, hand]
        assert isinstance(mesh, trimesh.Trimesh)
        close(mesh.bounds, np.stack([vertices.min(axis=0), vertices.max(axis=0)]))
        assert isinstance(mesh.visual, TextureVisuals)
        assert mesh.visual.material.name == side
        assert tuple(mesh.visual.material.main_color[:3].tolist()) == COLOURS[side]


@pytest.mark.parametrize("n", [BOTH, RIGHT, LEFT, LAST])
def test_ply_opens_with_both_colours(n, exported, truth, hands):
    path = exported["ply"] / f"{n:04d}.ply"
    mesh = trimesh.load_mesh(path, process=False)
    assert isinstance(mesh.visual, ColorVisuals)
    number, size = hands.num_vertices, len(hands.faces[0])
    present = [hand for hand in range(2) if (n, hand) in truth]
    assert len(mesh.vertices) == number * len(present)
    header = path.read_bytes().split(b"end_header")[0].decode("ascii")
    for place, hand in enumerate(present):
        rows = slice(place * number, (place + 1) * number)
        faces = mesh.faces[place * size : (place + 1) * size] - place * number
        _check_mesh(mesh.vertices[rows], faces, hand, hands, truth[n, hand][0])
        _outwards(mesh.vertices[rows], mesh.vertex_normals[rows], faces)
        assert (mesh.visual.vertex_colors[rows, :3] == COLOURS[SIDES[hand]]).all()
        assert f"comment {SIDES[hand]}: vertices {rows.start} to {rows.stop - 1}" in header


@pytest.mark.parametrize("n", [BOTH, RIGHT, LEFT, LAST])
def test_glb_opens_with_both_hands(n, exported, truth, hands):
    path = exported["glb"] / f"{n:04d}.glb"
    glb = read_glb(path)
    sides = [SIDES[h] for h in range(2) if (n, h) in truth]
    assert list(glb.nodes) == sides
    assert [m["name"] for m in glb.content["materials"]] == sides
    scene = trimesh.load_scene(path)
    assert set(scene.graph.nodes_geometry) == set(sides)
    for side in sides:
        hand = SIDES.index(side)
        vertices = glb.points(side) @ TO_OPENGL
        _check_mesh(vertices, glb.faces(side), hand, hands, truth[n, hand][0])
        _outwards(vertices, glb.points(side, what="NORMAL") @ TO_OPENGL, glb.faces(side))
        transform, geometry = scene.graph[side]
        mesh = scene.geometry[geometry]
        assert isinstance(mesh, trimesh.Trimesh)
        seen = trimesh.transform_points(mesh.vertices, transform)
        _check_mesh(seen @ TO_OPENGL, mesh.faces, hand, hands, truth[n, hand][0])
        assert isinstance(mesh.visual, TextureVisuals)
        assert mesh.visual.material.name == side


def test_colours_are_alike_in_lightness_and_unlike_to_every_eye():
    # Machado, Oliveira and Fernandes, 2009: no red, no green and no blue cones.
    eyes = [
        np.eye(3),
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3040]],
    ]
    for eye in np.array(eyes):
        right, left = (_lab(np.clip(eye @ _linear(COLOURS[side]), 0, 1)) for side in SIDES)
        assert np.linalg.norm(right - left) > 50
    right, left = (_lab(_linear(COLOURS[side])) for side in SIDES)
    assert abs(right[0] - left[0]) < 1


def _linear(colour):
    srgb = np.array(colour) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _lab(rgb):
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    x, y, z = np.cbrt(np.array(to_xyz) @ rgb / [0.9505, 1.0, 1.0888])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# ---- the animation


def test_animation_shows_every_frame_at_its_time(exported, truth, result, hands):
    glb = read_glb(exported["glb_animated"])
    assert list(glb.nodes) == list(SIDES)
    for n in range(6):
        time = float(np.float32(result.timestamp[n] - result.timestamp[0]))
        for hand, side in enumerate(SIDES):
            points = glb.points(side, "sequence 0", time)
            assert (points is None) == ((n, hand) not in truth)
            if points is None:
                continue
            _check_mesh(points @ TO_OPENGL, glb.faces(side), hand, hands, truth[n, hand][0])
            normals = glb.points(side, "sequence 0", time, what="NORMAL")
            _outwards(points, normals, glb.faces(side))


def test_animation_at_rest_opens_in_trimesh(exported, truth):
    scene = trimesh.load_scene(exported["glb_animated"])
    assert set(scene.graph.nodes_geometry) == set(SIDES)
    for hand, side in enumerate(SIDES):
        transform, geometry = scene.graph[side]
        mesh = scene.geometry[geometry]
        assert isinstance(mesh, trimesh.Trimesh)
        seen = trimesh.transform_points(mesh.vertices, transform)
        close(seen @ TO_OPENGL, truth[BOTH, hand][0])


def test_animation_opens_in_pygltflib(exported):
    pygltflib = pytest.importorskip("pygltflib", reason="needs pygltflib")
    file = pygltflib.GLTF2().load(exported["glb_animated"])
    assert [node.name for node in file.nodes] == list(SIDES)
    assert file.meshes[0].extras["targetNames"] == ["clip/1", "clip/5"]
    paths = [channel.target.path for channel in file.animations[0].channels]
    assert paths == ["translation", "rotation", "weights", "scale"] * 2


def test_animation_turns_steadily_between_frames(hands, tmp_path):
    """Half way, the wrist has turned half the angle, the short way round."""
    orient = np.zeros((2, 2, 3))
    orient[:, 0, 2] = [3.0, -3.0]
    frames = TwoHandPredictions(
        hand_valid=np.array([[True, False]] * 2),
        global_orient=orient,
        hand_pose=np.zeros((2, 2, 15, 3)),
        betas=np.zeros((2, 2, 10)),
    )
    path = tmp_path / "a.glb"
    export(path, frames, hands, to="glb_animated", fps=10.0)
    glb = read_glb(path)
    half = Rotation.from_rotvec([0, 0, np.pi]).as_matrix()
    rest = np.asarray(hands.v_template[0] - hands.J_template[0, 0])
    close(glb.points("right", "sequence 0", 0.05) @ TO_OPENGL, rest @ half.T)


def test_each_sequence_is_an_animation_of_its_own(result, hands, truth, tmp_path):
    path = tmp_path / "a.glb"
    frames = replace(result, sequence_id=np.array([4, 4, 9, 9, 9, 9]), timestamp=None)
    export(path, frames, hands, to="glb_animated", status=STATUS, fps=5.0)
    glb = read_glb(path)
    assert [a["name"] for a in glb.content["animations"]] == ["sequence 4", "sequence 9"]
    for n, (clip, time) in {
        BOTH: ("sequence 4", 0.0),
        RIGHT: ("sequence 4", 0.2),
        LEFT: ("sequence 9", 0.0),
        LAST: ("sequence 9", 0.6),
    }.items():
        for hand, side in enumerate(SIDES):
            points = glb.points(side, clip, float(np.float32(time)))
            assert (points is None) == ((n, hand) not in truth)
            if points is not None:
                close(points @ TO_OPENGL, truth[n, hand][0])


def test_timestamps_that_do_not_increase_are_told(result, hands, tmp_path):
    frames = replace(result, timestamp=np.zeros(6))
    done = export(tmp_path / "a.glb", frames, hands, to="glb_animated", status=STATUS)
    assert any("do not increase: 30 frames a second" in note for note in done.notes)
    glb = read_glb(tmp_path / "a.glb")
    times = glb.arrays[glb.content["animations"][0]["samplers"][0]["input"]]
    close(times, np.array([0, 1, 5]) / 30)


def test_one_frame_is_an_animation_too(result, hands, truth, tmp_path):
    export(tmp_path / "a.glb", result.frames([BOTH]), hands, to="glb_animated")
    glb = read_glb(tmp_path / "a.glb")
    close(glb.points("left", "sequence 0", 0.0) @ TO_OPENGL, truth[BOTH, 1][0])


def test_too_many_frames_offer_another_way(result, hands, tmp_path):
    many = result.frames(np.zeros(MOST_FRAMES + 1, int))
    with pytest.raises(InputError, match=r"at most 300 .*found 301.*--frames 0:300.* write glb"):
        export(tmp_path / "a.glb", many, hands, to="glb_animated")
    with pytest.raises(InputError, match="fps: expected"):
        export(tmp_path / "a.glb", result, hands, to="glb_animated", status=STATUS, fps=-1.0)


def test_gltf_arrays_of_any_length_are_aligned(tmp_path):
    """Three corners are six bytes, after which floats begin at the next multiple of four."""
    builder = GlbBuilder()
    corners = builder.accessor(np.arange(3, dtype=np.uint16), role="triangles")
    points = np.eye(3, dtype=np.float32)
    positions = builder.accessor(points, role="vertices", bounds=True)
    attributes = {"POSITION": positions, "NORMAL": builder.accessor(points, role="vertices")}
    primitive = {"attributes": attributes, "indices": corners, "material": 0}
    builder.add("materials", pbrMetallicRoughness={"baseColorFactor": [1] * 4, "metallicFactor": 0})
    builder.add("nodes", name="a", mesh=builder.add("meshes", primitives=[primitive]))
    path = tmp_path / "a.glb"
    with path.open("wb") as file:
        builder.write(file, scene="\u00e4 scene")
    glb = read_glb(path)
    close(glb.points("a"), np.eye(3))
    assert glb.content["scenes"][0]["name"] == "\u00e4 scene"


# ---- what is written, and where


def test_either_wrist_may_be_the_anchor():
    tau, root = np.array([[0.1, 0.2, 0.3]] * 2), np.array([[1.0, 2.0, 3.0]] * 2)
    right, left = np.moveaxis(wrists(tau, root, np.array([False, True])), 1, 0)
    close(left - right, tau)
    close(right[0], root[0])
    close(left[1], root[1])


def test_what_was_left_out_is_told(result, hands, tmp_path):
    done = export(tmp_path / "a.npz", result, hands, to="smplx", status=STATUS)
    assert done.frames == 4 and done.files == (tmp_path / "a.npz",)
    assert done.notes == (
        "2 frames (clip/3, clip/4) skipped by the fit: written without hands, or left out",
    )
    # Without a status the broken hand is found by itself, and only that one is left out.
    done = export(tmp_path / "b.npz", result, hands, to="smplx")
    assert done.notes == ("1 frame (clip/3) with a hand whose parameters are not finite: left out",)
    done = export(tmp_path / "obj", result, hands, to="obj", status=STATUS)
    assert "2 frames without a hand have no file" in done.notes
    done = export(tmp_path / "ho3d", replace(result, K=None), hands, to="ho3d", status=STATUS)
    assert any("betas of 3 left hands" in note for note in done.notes)
    assert any("no camMat" in note for note in done.notes)


def test_unknown_places_are_told(result, hands, tmp_path):
    """Without root_transl the anchor wrist is the origin; without tau a left hand has no place."""
    frames = replace(result, root_transl=None, relative_transl=None)
    done = export(tmp_path / "a.csv", frames, hands, to="joints_csv", status=STATUS)
    assert any("4 frames" in note and "without root_transl" in note for note in done.notes)
    assert any("2 frames" in note and "without relative_transl" in note for note in done.notes)
    back = read_table(tmp_path / "a.csv")
    assert back.hand_valid[[BOTH, RIGHT, LEFT]].tolist() == [[1, 0], [1, 0], [0, 1]]
    close(back.joints_3d[RIGHT, 0, 0, :3], np.zeros(3))
    close(back.joints_3d[LEFT, 1, 0, :3], np.zeros(3))


def test_wrists_of_joints_stand_in_for_tau(result, hands, truth, tmp_path):
    joints = np.zeros((6, 2, 21, 4), np.float32)
    joints[:, 1, 0, :3] = result.relative_transl
    joints[:, :, 0, 3] = 1
    frames = replace(result, relative_transl=None, joints_3d=joints)
    export(tmp_path / "a.csv", frames, hands, to="joints_csv", status=STATUS)
    back = read_table(tmp_path / "a.csv")
    close(back.joints_3d[BOTH, 1, :, :3], truth[BOTH, 1][1])


@pytest.mark.parametrize("to", sorted(set(EXPORTERS) - {"parquet"}))
def test_nothing_is_overwritten_unasked(to, result, hands, tmp_path):
    path = tmp_path / "new" / ("x" + SUFFIXES[to])
    export(path, result, hands, to=to, status=STATUS)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for call in (export, None):
        with pytest.raises(InputError, match="exists already.*--force"):
            if call is None:
                check_export(path, to=to)
            else:
                export(path, result, hands, to=to, status=STATUS)
    export(path, result.frames([BOTH, RIGHT]), hands, to=to, overwrite=True)
    after = [p for p in tmp_path.rglob("*") if p.is_file()]
    if to in FOLDERS:
        # The former frames are gone, as the folder is of one export.
        assert len(after) == len(before) - 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_with_other_things_is_never_replaced(result, hands, tmp_path):
    folder = tmp_path / "out"
    export(folder, result, hands, to="obj", status=STATUS)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex.*not replaced"):
        export(folder, result, hands, to="obj", status=STATUS, overwrite=True)
    (folder / "thesis.tex").rename(tmp_path / "thesis.tex")
    (folder / "frames.json").unlink()
    with pytest.raises(InputError, match="not replaced"):
        export(folder, result, hands, to="obj", status=STATUS, overwrite=True)
    with pytest.raises(InputError, match="is a file; name a folder"):
        export(tmp_path / "thesis.tex", result, hands, to="obj", status=STATUS, overwrite=True)


@pytest.mark.parametrize("to", sorted(FOLDERS))
def test_a_folder_that_fails_leaves_the_former_one(to, result, hands, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    export(folder, result, hands, to=to, status=STATUS)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("fitting.exporters.folders.json.dumps", fail)
    with pytest.raises(OSError, match="no space"):
        export(folder, result, hands, to=to, status=STATUS, overwrite=True)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_bad_use_is_explained(result, hands, tmp_path):
    with pytest.raises(InputError, match="unknown format 'fbx'; known: canonical, smplx"):
        export(tmp_path / "a.fbx", result, hands, to="fbx")
    with pytest.raises(InputError, match="ends in .npz"):
        export(tmp_path / "a.json", result, hands, to="smplx")
    with pytest.raises(InputError, match="smplx has no option 'fps', which is for glb_animated"):
        export(tmp_path / "a.npz", result, hands, to="smplx", fps=30.0)
    with pytest.raises(InputError, match="unknown joint order 'mano22'; known: mano21"):
        export(tmp_path / "a.csv", result, hands, to="joints_csv", order="mano22", status=STATUS)
    joints = TwoHandPredictions(
        hand_valid=result.hand_valid, joints_3d=np.ones((6, 2, 21, 4), np.float32)
    )
    with pytest.raises(InputError, match=r"expected hand parameters, found .*joints_3d: manofit"):
        export(tmp_path / "a.npz", joints, hands, to="smplx")
    with pytest.raises(InputError, match="no frame has a hand that can be written; 6 frames"):
        export(tmp_path / "a.npz", result, hands, to="smplx", status=np.full(6, 2))
    few = replace(result, betas=result.betas[..., :5])
    with pytest.raises(InputError, match="betas: expected 10"):
        export(tmp_path / "a.npz", few, hands, to="smplx")
    assert not list(tmp_path.iterdir())


def test_far_hands_lose_no_precision(result, hands, tmp_path):
    """Weak cameras lifted to perspective put hands dozens of metres away."""
    near = result.frames([BOTH])
    far = replace(near, root_transl=near.root_transl + np.array([0, 0, 32], np.float32))
    for name, frames in (("near", near), ("far", far)):
        export(tmp_path / name, frames, hands, to="obj")
    found = [
        np.array([line.split()[1:] for line in path.read_text().splitlines() if line[:2] == "v "])
        for path in (tmp_path / "near" / "0000.obj", tmp_path / "far" / "0000.obj")
    ]
    close(found[1].astype(float) - [0, 0, 32], found[0].astype(float), 1e-6 + 2**-19)
