"""A writer of binary glTF 2.0 (`.glb`): arrays go in, a JSON and a binary chunk come out.

Reference: Khronos, "glTF 2.0 Specification", sections 3.6 (buffers), 3.11 (animations), 4 (GLB).
"""

import json
import struct
from typing import Any, BinaryIO, Final, Literal

import numpy as np

_COMPONENTS: Final = {"float32": 5126, "uint16": 5123, "uint32": 5125}
_ELEMENTS: Final = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4"}
_TARGETS: Final = {"vertices": 34962, "triangles": 34963}
_JSON, _BINARY = 0x4E4F534A, 0x004E4942


class GlbBuilder:
    """What goes into one file. Objects refer to each other by the numbers that adding returns."""

    def __init__(self) -> None:
        self._objects: dict[str, list[dict[str, Any]]] = {}
        self._binary = bytearray()

    def add(self, kind: str, **content: Any) -> int:
        """Add an object to a top-level list such as "meshes"; returns its number there."""
        objects = self._objects.setdefault(kind, [])
        objects.append(content)
        return len(objects) - 1

    def accessor(
        self,
        array: np.ndarray,
        *,
        role: Literal["vertices", "triangles"] | None = None,
        bounds: bool = False,
    ) -> int:
        """Add an array (float32, uint16 or uint32; (n,), (n, 3) or (n, 4)); returns its accessor.

        Args:
            array: the values.
            role: what graphics cards will use it for.
            bounds: also tell the least and greatest values, as the format wants them of positions
                and of the times of an animation.
        """
        # A view begins at a multiple of four bytes, so that floats are aligned.
        self._binary.extend(b"\0" * (-len(self._binary) % 4))
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        view: dict[str, Any] = {
            "buffer": 0,
            "byteOffset": len(self._binary),
            "byteLength": data.nbytes,
        }
        if role is not None:
            view["target"] = _TARGETS[role]
        self._binary.extend(data.tobytes())
        content: dict[str, Any] = {
            "bufferView": self.add("bufferViews", **view),
            "componentType": _COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": _ELEMENTS[array.shape[1:]],
        }
        if bounds:
            content["min"] = np.atleast_1d(array.min(axis=0)).tolist()
            content["max"] = np.atleast_1d(array.max(axis=0)).tolist()
        return self.add("accessors", **content)

    def write(self, file: BinaryIO, *, scene: str) -> None:
        """Write the file; its one scene has all nodes.

        Args:
            file: open for writing.
            scene: its name.
        """
        nodes = list(range(len(self._objects["nodes"])))
        binary = bytes(self._binary) + b"\0" * (-len(self._binary) % 4)
        content = {
            "asset": {"version": "2.0", "generator": "manofit"},
            "scene": 0,
            "scenes": [{"name": scene, "nodes": nodes}],
            **self._objects,
            "buffers": [{"byteLength": len(self._binary)}],
        }
        text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(binary)
        file.write(struct.pack("<4sII", b"glTF", 2, length))
        for kind, chunk in ((_JSON, text), (_BINARY, binary)):
            file.write(struct.pack("<II", len(chunk), kind))
            file.write(chunk)
