"""A strict reader of binary glTF 2.0, and its player: what it takes, the specification allows.

It shares no code with the writer. Numbers of sections are those of the specification.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TYPES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
COMPONENTS = {5123: np.dtype("<u2"), 5125: np.dtype("<u4"), 5126: np.dtype("<f4")}
VERTICES, TRIANGLES = 34962, 34963
OUTPUTS = {"translation": "VEC3", "rotation": "VEC4", "scale": "VEC3", "weights": "SCALAR"}


@dataclass
class Glb:
    """One file: its JSON, and its accessors as arrays."""

    content: dict
    arrays: list[np.ndarray]

    @property
    def nodes(self) -> dict[str, dict]:
        return {node["name"]: node for node in self.content["nodes"]}

    def animation(self, name: str) -> dict:
        (found,) = (a for a in self.content["animations"] if a["name"] == name)
        return found

    def faces(self, node: str) -> np.ndarray:
        (primitive,) = self.content["meshes"][self.nodes[node]["mesh"]]["primitives"]
        return self.arrays[primitive["indices"]].reshape(-1, 3).astype(int)

    def points(self, node: str, animation: str | None = None, time: float = 0.0, what="POSITION"):
        """Vertices (V, 3) of a node in the scene, or its normals; None if its scale is 0."""
        entry = self.nodes[node]
        mesh = self.content["meshes"][entry["mesh"]]
        state = {
            "translation": entry.get("translation", [0, 0, 0]),
            "rotation": entry.get("rotation", [0, 0, 0, 1]),
            "scale": entry.get("scale", [1, 1, 1]),
            "weights": mesh.get("weights", []),
        }
        if animation is not None:
            state |= self._played(self.animation(animation), node, time)
        if not np.any(state["scale"]):
            return None
        (primitive,) = mesh["primitives"]
        points = self.arrays[primitive["attributes"][what]].astype(float)
        for weight, target in zip(state["weights"], primitive.get("targets", []), strict=True):
            points = points + weight * self.arrays[target[what]]
        turned = points @ quaternion_matrix(state["rotation"]).T
        return turned if what == "NORMAL" else turned * state["scale"] + state["translation"]

    def _played(self, animation: dict, node: str, time: float) -> dict[str, np.ndarray]:
        state = {}
        for channel in animation["channels"]:
            if self.content["nodes"][channel["target"]["node"]]["name"] != node:
                continue
            sampler = animation["samplers"][channel["sampler"]]
            times = self.arrays[sampler["input"]]
            values = self.arrays[sampler["output"]].reshape(len(times), -1).astype(float)
            path = channel["target"]["path"]
            k = int(np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 1))
            after = min(k + 1, len(times) - 1)
            part = (time - times[k]) / (times[after] - times[k]) if after > k else 0.0
            part = 0.0 if sampler["interpolation"] == "STEP" else max(part, 0.0)
            if path == "rotation":
                state[path] = slerp(values[k], values[after], part)
            else:
                state[path] = (1 - part) * values[k] + part * values[after]
        return state


def quaternion_matrix(q) -> np.ndarray:
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def slerp(a: np.ndarray, b: np.ndarray, part: float) -> np.ndarray:
    """Along the shorter arc, as appendix C.4 has it."""
    cosine = a @ b
    b, cosine = (-b, -cosine) if cosine < 0 else (b, cosine)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if angle < 1e-6:
        return a
    return (np.sin((1 - part) * angle) * a + np.sin(part * angle) * b) / np.sin(angle)


def read_glb(path: Path) -> Glb:
    """Read a file and check all of it."""
    content, binary = _chunks(path.read_bytes())
    assert content["asset"]["version"] == "2.0"
    (buffer,) = content["buffers"]
    assert "uri" not in buffer
    # 4.4.3.3: the chunk may be up to three bytes longer.
    assert 0 <= len(binary) - buffer["byteLength"] <= 3
    assert not any(binary[buffer["byteLength"] :])
    for index, view in enumerate(content["bufferViews"]):
        _check_view(content, index, view, buffer["byteLength"])
    glb = Glb(content, [_accessor(content, binary, entry) for entry in content["accessors"]])
    _check_scene(glb)
    for mesh in content["meshes"]:
        _check_mesh(glb, mesh)
    for animation in content.get("animations", []):
        _check_animation(glb, animation)
    _check_all_used(glb)
    return glb


def _chunks(data: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    found, position = [], 12
    while position < len(data):
        size, kind = struct.unpack_from("<I4s", data, position)
        assert size % 4 == 0 and position % 4 == 0
        found.append((kind, data[position + 8 : position + 8 + size]))
        position += 8 + size
    assert position == len(data)
    assert [kind for kind, _ in found] == [b"JSON", b"BIN\0"]
    text = found[0][1]
    assert text[:1] == b"{" and set(text[text.rindex(b"}") + 1 :]) <= {0x20}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text.decode("utf-8"), parse_constant=refuse), found[1][1]


def _check_view(content: dict, index: int, view: dict, length: int) -> None:
    assert view["buffer"] == 0 and view["byteLength"] >= 1
    assert view["byteOffset"] >= 0 and view["byteOffset"] + view["byteLength"] <= length
    assert "byteStride" not in view, "everything is packed"
    if index:
        before = content["bufferViews"][index - 1]
        assert before["byteOffset"] + before["byteLength"] <= view["byteOffset"]
    (user,) = (a for a in content["accessors"] if a["bufferView"] == index)
    size = COMPONENTS[user["componentType"]].itemsize
    # 3.6.2.4: aligned to the component, and to four bytes where it holds vertices.
    assert view["byteOffset"] % size == 0
    if view.get("target") == VERTICES:
        assert view["byteOffset"] % 4 == 0 and size * TYPES[user["type"]] % 4 == 0


def _accessor(content: dict, binary: bytes, entry: dict) -> np.ndarray:
    view = content["bufferViews"][entry["bufferView"]]
    kind, width = COMPONENTS[entry["componentType"]], TYPES[entry["type"]]
    assert entry["count"] >= 1 and entry.get("byteOffset", 0) == 0
    assert entry["count"] * width * kind.itemsize == view["byteLength"]
    flat = np.frombuffer(binary, kind, entry["count"] * width, view["byteOffset"])
    assert np.isfinite(flat).all()
    array = flat.reshape(entry["count"], width)
    for bound, values in (("min", array.min(0)), ("max", array.max(0))):
        if bound in entry:
            assert np.array_equal(np.array(entry[bound], kind), values), "told exactly"
    return array[:, 0] if entry["type"] == "SCALAR" else array


def _check_scene(glb: Glb) -> None:
    (scene,) = glb.content["scenes"]
    assert glb.content["scene"] == 0
    assert sorted(scene["nodes"]) == list(range(len(glb.content["nodes"]))), "all are roots"
    assert len(glb.nodes) == len(glb.content["nodes"]), "names differ"
    for node in glb.content["nodes"]:
        assert "matrix" not in node and node["mesh"] < len(glb.content["meshes"])
        assert abs(np.linalg.norm(node.get("rotation", [0, 0, 0, 1])) - 1) < 1e-5
    for material in glb.content["materials"]:
        pbr = material["pbrMetallicRoughness"]
        assert all(0 <= x <= 1 for x in pbr["baseColorFactor"]) and pbr["metallicFactor"] == 0


def _check_mesh(glb: Glb, mesh: dict) -> None:
    (primitive,) = mesh["primitives"]
    entries = glb.content["accessors"]
    assert primitive["material"] < len(glb.content["materials"])
    assert primitive.get("mode", 4) == 4
    count = entries[primitive["attributes"]["POSITION"]]["count"]

    def check(attributes: dict[str, int]) -> None:
        assert set(attributes) == {"POSITION", "NORMAL"}
        for name, number in attributes.items():
            entry = entries[number]
            view = glb.content["bufferViews"][entry["bufferView"]]
            assert view["target"] == VERTICES
            assert (entry["type"], entry["componentType"]) == ("VEC3", 5126)
            assert entry["count"] == count
            # 3.7.2.1 and 3.7.2.2: positions and their displacements tell their bounds.
            assert name != "POSITION" or {"min", "max"} <= set(entry)

    check(primitive["attributes"])
    lengths = np.linalg.norm(glb.arrays[primitive["attributes"]["NORMAL"]], axis=1)
    assert np.abs(lengths - 1).max() < 1e-5
    indices = entries[primitive["indices"]]
    assert indices["type"] == "SCALAR" and indices["componentType"] in (5123, 5125)
    assert indices["count"] % 3 == 0 and glb.arrays[primitive["indices"]].max() < count
    assert glb.content["bufferViews"][indices["bufferView"]]["target"] == TRIANGLES
    targets = primitive.get("targets", [])
    assert "targets" not in primitive or targets
    for target in targets:
        check(target)
    assert len(mesh.get("weights", [])) == len(targets)
    assert len(mesh.get("extras", {}).get("targetNames", [])) == len(targets)


def _check_animation(glb: Glb, animation: dict) -> None:
    entries, used = glb.content["accessors"], []
    assert animation["channels"] and animation["samplers"]
    targets = [(c["target"]["node"], c["target"]["path"]) for c in animation["channels"]]
    assert len(set(targets)) == len(targets)
    for channel in animation["channels"]:
        node, path = channel["target"]["node"], channel["target"]["path"]
        used.append(channel["sampler"])
        sampler = animation["samplers"][channel["sampler"]]
        assert sampler["interpolation"] in ("LINEAR", "STEP")
        times, values = entries[sampler["input"]], entries[sampler["output"]]
        assert (times["type"], times["componentType"]) == ("SCALAR", 5126)
        assert {"min", "max"} <= set(times)
        seconds = glb.arrays[sampler["input"]]
        assert seconds[0] >= 0 and np.all(np.diff(seconds) > 0)
        assert (values["type"], values["componentType"]) == (OUTPUTS[path], 5126)
        mesh = glb.content["meshes"][glb.content["nodes"][node]["mesh"]]
        each = len(mesh["weights"]) if path == "weights" else 1
        assert values["count"] == times["count"] * each
        output = glb.arrays[sampler["output"]]
        if path == "rotation":
            assert np.abs(np.linalg.norm(output, axis=1) - 1).max() < 1e-5
            assert np.all(np.sum(output[1:] * output[:-1], axis=1) >= 0), "the short way round"
        if path == "weights":
            assert output.min() >= 0 and output.max() <= 1, "Blender clamps them"
        for number in (sampler["input"], sampler["output"]):
            assert "target" not in glb.content["bufferViews"][entries[number]["bufferView"]]
    assert sorted(used) == list(range(len(animation["samplers"])))


def _check_all_used(glb: Glb) -> None:
    """Nothing lies about: every accessor, mesh and material is somebody's, once."""
    accessors, materials = [], []
    for mesh in glb.content["meshes"]:
        for primitive in mesh["primitives"]:
            materials.append(primitive["material"])
            accessors.append(primitive["indices"])
            for attributes in (primitive["attributes"], *primitive.get("targets", [])):
                accessors += attributes.values()
    for animation in glb.content.get("animations", []):
        for sampler in animation["samplers"]:
            accessors += [sampler["input"], sampler["output"]]
    assert sorted(accessors) == list(range(len(glb.content["accessors"])))
    assert sorted(materials) == list(range(len(glb.content["materials"])))
    meshes = sorted(node["mesh"] for node in glb.content["nodes"])
    assert meshes == list(range(len(glb.content["meshes"])))
