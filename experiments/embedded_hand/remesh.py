"""From the distance field to a mesh with exactly as many vertices as MANO.

Marching cubes gives thousands of slivers; splitting, collapsing, flipping and relaxing edges
against a wanted length turns them into well-shaped triangles (after Botsch and Kobbelt, "A
remeshing approach to multiresolution modeling", 2004). With a disc's topology and 16 boundary
vertices, Euler's formula makes 778 vertices carry 2 * 778 - 2 - 16 = 1538 faces.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from skimage.measure import marching_cubes

from experiments.embedded_hand.skeleton import FINGERS, MM, Skeleton
from experiments.embedded_hand.surface import CUT_X, Field, Points

VERTEX_COUNT = 778
LOOP_COUNT = 16
# Flat triangles cut corners: aim a little outside the field's zero level.
_CHORD_ALLOWANCE = 0.25 * MM
_SPLIT_ABOVE, _COLLAPSE_BELOW, _COLLAPSE_REACH = 1.35, 0.78, 1.4
_ROUNDS, _FREEZE_LOOP_FROM = 7, 2
# A collapse must leave at most this many neighbours.
_MAX_VALENCE = 9

Sizing = Callable[[Points], Float[np.ndarray, "n"]]
Edge = tuple[int, int]
Triangle = tuple[int, int, int]


def distance_to_segment(p: Points, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n"]:
    """Distance of points to a segment, metres."""
    h = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(p - a - h[:, None] * (b - a), axis=1)


def edge_sizing(hand: Skeleton) -> Sizing:
    """Wanted edge length: fine at the tips, middling along the fingers, coarse on the palm."""
    fine, finger, palm = 3.0 * MM, 6.4 * MM, 12.8 * MM
    segments = []
    for name in FINGERS:
        chain = hand.chain(name)
        # The thumb's first phalanx lies inside the palm.
        chain = chain[1:] if name == "thumb" else chain
        segments += list(zip(chain[:-1], chain[1:], strict=True))

    def sizing(p: Points) -> Float[np.ndarray, "n"]:
        to_finger = np.min([distance_to_segment(p, a, b) for a, b in segments], axis=0)
        to_tip = np.linalg.norm(p[:, None] - hand.tips, axis=2).min(1)
        far = np.clip((to_finger - 10 * MM) / (24 * MM), 0, 1)
        length = finger + (palm - finger) * far**2 * (3 - 2 * far)
        near = np.minimum(to_tip / (10 * MM), 3) ** 2
        return np.minimum(length, fine + near * (finger - fine))

    return sizing


def polygonise(field: Field, *, step: float = 4 * MM) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes on a grid that ends at the cut, so that the wrist comes out open and flat."""
    cells = int(round(0.205 / step))
    low = np.array([CUT_X - cells * step, -0.055, -0.085])
    ticks = [
        low[0] + step * np.arange(cells + 1),
        np.arange(low[1], 0.045, step),
        np.arange(low[2], 0.110, step),
    ]
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3)
    values = field(grid).reshape([len(t) for t in ticks])
    vertices, faces, _, _ = marching_cubes(values, 0, spacing=(step,) * 3)
    vertices, faces = vertices + low, faces.astype(np.int64)
    return vertices, faces if signed_volume(vertices, faces) > 0 else faces[:, ::-1].copy()


def signed_volume(vertices: Points, faces: Int[np.ndarray, "f 3"]) -> float:
    """Volume in m^3, positive when faces wind outwards; the opening is capped by a fan."""
    centre = vertices[np.argmax(vertices[:, 0])]
    a, b, c = (vertices - centre)[faces].transpose(1, 0, 2)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def gradient(field: Field, p: Points, *, step: float = 2e-4) -> Points:
    """Central differences of a field."""
    return np.stack([field(p + step * e) - field(p - step * e) for e in np.eye(3)], 1) / (2 * step)


def project(
    field: Field, p: Points, *, level: float = 0.0, on_loop: np.ndarray | None = None
) -> Points:
    """Two Newton steps onto a level of the field; vertices `on_loop` stay in the cut's plane."""
    for _ in range(2):
        slope = gradient(field, p)
        if on_loop is not None:
            slope[on_loop, 0] = 0
        size = np.maximum((slope**2).sum(1), 0.05)
        step = ((field(p) - level) / size)[:, None] * slope
        length = np.linalg.norm(step, axis=1, keepdims=True)
        p = p - step * np.minimum(1, 3 * MM / np.maximum(length, 1e-12))
    return p


class EditableMesh:
    """A triangle mesh as dictionaries, for local edits that keep it a manifold disc."""

    def __init__(self, vertices: Points, faces: Int[np.ndarray, "f 3"]):
        self.position = list(np.asarray(vertices))
        self.faces: dict[int, Triangle] = {}
        self.faces_at: dict[int, set[int]] = {v: set() for v in range(len(vertices))}
        self._next_face = 0
        self.loop_frozen = False
        for a, b, c in faces.tolist():
            self._add((a, b, c))

    def _add(self, triangle: Triangle) -> None:
        self.faces[self._next_face] = triangle
        for v in triangle:
            self.faces_at[v].add(self._next_face)
        self._next_face += 1

    def _remove(self, face: int) -> None:
        for v in self.faces.pop(face):
            self.faces_at[v].discard(face)

    def _normal(self, triangle: Triangle) -> np.ndarray:
        a, b, c = (self.position[v] for v in triangle)
        return np.cross(b - a, c - a)

    @property
    def vertex_count(self) -> int:
        """Vertices still in use."""
        return len(self.faces_at)

    def positions(self) -> Points:
        """All positions ever made, dead ones included, so that ids index them."""
        return np.array(self.position)

    def neighbours(self, v: int) -> set[int]:
        """Vertices one edge away."""
        return {u for f in self.faces_at[v] for u in self.faces[f]} - {v}

    def faces_on(self, u: int, v: int) -> set[int]:
        """Faces at an edge; empty if there is no such edge."""
        return self.faces_at.get(u, set()) & self.faces_at.get(v, set())

    def on_boundary(self, v: int) -> bool:
        """Whether a vertex lies on the wrist loop."""
        return any(len(self.faces_on(v, u)) == 1 for u in self.neighbours(v))

    def edges(self) -> list[Edge]:
        """Every edge once, sorted, so that edits run in the same order every time."""
        found = set()
        for a, b, c in self.faces.values():
            found |= {(min(e), max(e)) for e in ((a, b), (b, c), (c, a))}
        return sorted(found)

    def boundary_edges(self) -> list[Edge]:
        """Edges with one face, shortest first."""
        loop = [e for e in self.edges() if len(self.faces_on(*e)) == 1]
        return sorted(loop, key=self.length)

    def length(self, edge: Edge) -> float:
        """Metres."""
        return float(np.linalg.norm(self.position[edge[0]] - self.position[edge[1]]))

    def split(self, u: int, v: int) -> bool:
        """Put a vertex on the middle of an edge."""
        faces = sorted(self.faces_on(u, v))
        if not faces or (len(faces) == 1 and self.loop_frozen):
            return False
        middle = len(self.position)
        self.position.append((self.position[u] + self.position[v]) / 2)
        self.faces_at[middle] = set()
        for face in faces:
            triangle = self.faces[face]
            self._remove(face)
            for old in (u, v):
                a, b, c = (middle if x == old else x for x in triangle)
                self._add((a, b, c))
        return True

    def collapse(self, u: int, v: int, *, reach: float = np.inf) -> bool:
        """Merge two neighbours, unless that would fold, pinch or overstretch the mesh.

        Args:
            u: a vertex; the one that stays if it lies on the loop.
            v: its neighbour.
            reach: no edge may come out longer than this, metres.
        """
        shared_faces = self.faces_on(u, v)
        if not shared_faces:
            return False
        if self.on_boundary(v) and not self.on_boundary(u):
            u, v = v, u
        both_on_loop = self.on_boundary(u) and self.on_boundary(v)
        if both_on_loop and (len(shared_faces) != 1 or self.loop_frozen):
            return False
        around_u, around_v = self.neighbours(u), self.neighbours(v)
        wings = around_u & around_v
        # The link condition: otherwise two sheets would touch.
        if len(wings) != len(shared_faces) or len(around_u | around_v) - 2 > _MAX_VALENCE:
            return False
        if any(len(self.neighbours(w)) <= (3 if self.on_boundary(w) else 4) for w in wings):
            return False
        keep_place = self.on_boundary(u) and not both_on_loop
        place = self.position[u] if keep_place else (self.position[u] + self.position[v]) / 2
        ring = (around_u | around_v) - {u, v}
        if any(np.linalg.norm(self.position[w] - place) > reach for w in ring):
            return False
        if self._would_fold(u, place, shared_faces) or self._would_fold(v, place, shared_faces):
            return False
        for face in sorted(shared_faces):
            self._remove(face)
        for face in sorted(self.faces_at[v]):
            a, b, c = (u if x == v else x for x in self.faces[face])
            self._remove(face)
            self._add((a, b, c))
        self.position[u] = place
        del self.faces_at[v]
        return True

    def _would_fold(self, v: int, place: np.ndarray, ignore: set[int]) -> bool:
        """Whether moving a vertex turns one of its faces by more than about 70 degrees."""
        kept = self.position[v]
        for face in self.faces_at[v] - ignore:
            before = self._normal(self.faces[face])
            self.position[v] = place
            after = self._normal(self.faces[face])
            self.position[v] = kept
            if before @ after < 0.3 * np.linalg.norm(before) * np.linalg.norm(after):
                return True
        return False

    def flip(self, u: int, v: int) -> bool:
        """Turn an edge within its two faces if that evens out the valences."""
        faces = sorted(self.faces_on(u, v))
        if len(faces) != 2:
            return False
        first, second = (self.faces[f] for f in faces)
        if first[(first.index(u) + 1) % 3] != v:
            first, second = second, first
        a = next(x for x in first if x not in (u, v))
        b = next(x for x in second if x not in (u, v))
        if a == b or self.faces_on(a, b):
            return False
        excess = [len(self.neighbours(x)) - (4 if self.on_boundary(x) else 6) for x in (u, v, a, b)]
        change = (-1, -1, 1, 1)
        if sum((e + c) ** 2 - e**2 for e, c in zip(excess, change, strict=True)) >= 0:
            return False
        turned = ((u, b, a), (v, a, b))
        before = [self._normal(t) for t in (first, second)]
        after = [self._normal(t) for t in turned]
        if min(_cosine(n, before[0] + before[1]) for n in after) < 0.6:
            return False
        if _cosine(*after) < min(_cosine(*before) - 0.15, 0.8):
            return False
        for face in faces:
            self._remove(face)
        for triangle in turned:
            self._add(triangle)
        return True

    def compact(self) -> tuple[Points, Int[np.ndarray, "f 3"], Int[np.ndarray, "n"]]:
        """Vertices and faces without gaps, and the id each vertex has here."""
        ids = np.array(sorted(self.faces_at))
        row = -np.ones(len(self.position), int)
        row[ids] = np.arange(len(ids))
        return self.positions()[ids], row[np.array(list(self.faces.values()))], ids


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-20))


def _flip_all(mesh: EditableMesh) -> None:
    for edge in mesh.edges():
        mesh.flip(*edge)


def relax(
    mesh: EditableMesh,
    field: Field,
    sizing: Sizing,
    *,
    steps: int,
    pinned: dict[int, np.ndarray] | None = None,
) -> None:
    """Slide vertices within the surface towards the density-weighted centre of their faces."""
    for _ in range(steps):
        vertices, faces, ids = mesh.compact()
        edges = np.array(mesh.boundary_edges())
        row = np.searchsorted(ids, edges)
        on_loop = np.zeros(len(ids), bool)
        on_loop[row.ravel()] = True

        corners = vertices[faces]
        area = np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        )
        # Equal area / L^3 evens out edges relative to the wanted length L.
        weight = area / sizing(vertices)[faces].mean(1) ** 3
        total, target = np.zeros(len(ids)), np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(total, faces[:, corner], weight)
            np.add.at(target, faces[:, corner], weight[:, None] * corners.mean(1))
        target /= total[:, None]
        middle = np.zeros_like(vertices)
        np.add.at(middle, row, vertices[row[:, ::-1]] / 2)
        target[on_loop] = middle[on_loop]

        normal = gradient(field, vertices)
        normal[on_loop, 0] = 0
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        move = target - vertices
        move -= (move * normal).sum(1, keepdims=True) * normal
        moved = project(field, vertices + 0.6 * move, level=_CHORD_ALLOWANCE, on_loop=on_loop)
        moved[on_loop, 0] = CUT_X
        for v, place in zip(ids.tolist(), moved, strict=True):
            mesh.position[v] = place
        for v, place in (pinned or {}).items():
            mesh.position[v] = place


def _set_loop_count(mesh: EditableMesh) -> None:
    """Collapse the shortest or split the longest wrist edges until there are 16."""
    while len(loop := mesh.boundary_edges()) != LOOP_COUNT:
        if len(loop) < LOOP_COUNT:
            mesh.split(*loop[-1])
        elif not any(mesh.collapse(*edge) for edge in loop):
            raise RuntimeError(f"the wrist loop is stuck at {len(loop)} edges; change the sizing")


def _coarsen(vertices: Points, faces: np.ndarray, field: Field, sizing: Sizing) -> EditableMesh:
    """Rounds of split, collapse, flip and relax towards the wanted edge lengths."""
    mesh = EditableMesh(vertices, faces)
    for round_number in range(_ROUNDS):
        wanted = sizing(mesh.positions())
        for u, v in sorted(mesh.edges(), key=mesh.length, reverse=True):
            if mesh.length((u, v)) > _SPLIT_ABOVE * (wanted[u] + wanted[v]) / 2:
                mesh.split(u, v)
        wanted = sizing(mesh.positions())
        for u, v in _relative_order(mesh, wanted):
            goal = (wanted[u] + wanted[v]) / 2
            if mesh.length((u, v)) < _COLLAPSE_BELOW * goal:
                mesh.collapse(u, v, reach=_COLLAPSE_REACH * goal)
        if not mesh.loop_frozen:
            _set_loop_count(mesh)
            mesh.loop_frozen = round_number >= _FREEZE_LOOP_FROM
        _flip_all(mesh)
        _flip_all(mesh)
        relax(mesh, field, sizing, steps=2)
    return mesh


def _relative_order(mesh: EditableMesh, wanted: np.ndarray) -> list[Edge]:
    """Edges by length relative to the wanted one, shortest first."""
    return sorted(mesh.edges(), key=lambda e: mesh.length(e) / (wanted[e[0]] + wanted[e[1]]))


def _reach_count(mesh: EditableMesh, field: Field, sizing: Sizing) -> None:
    """Remove or add single vertices, half the surplus a pass, until the count is exact."""
    while (surplus := mesh.vertex_count - VERTEX_COUNT) != 0:
        order = _relative_order(mesh, sizing(mesh.positions()))
        quota = max(1, abs(surplus) // 2)
        for u, v in order if surplus > 0 else reversed(order):
            quota -= mesh.collapse(u, v) if surplus > 0 else mesh.split(u, v)
            if quota == 0:
                break
        _flip_all(mesh)
        _flip_all(mesh)
        relax(mesh, field, sizing, steps=2)


def _pin_tips(mesh: EditableMesh, field: Field, hand: Skeleton) -> dict[int, np.ndarray]:
    """Send the vertex nearest to each fingertip onto it."""
    vertices, _, ids = mesh.compact()
    places = project(field, hand.tips, level=_CHORD_ALLOWANCE)
    nearest = np.linalg.norm(vertices[:, None] - hand.tips, axis=2).argmin(0)
    return {int(ids[v]): place for v, place in zip(nearest, places, strict=True)}


def mesh_field(field: Field, hand: Skeleton) -> tuple[Points, Int[np.ndarray, "1538 3"]]:
    """Mesh a hand's field: 778 vertices, 1538 faces, a vertex at every fingertip.

    Args:
        field: the skin, negative inside.
        hand: where the fingers are.

    Returns:
        Vertices (metres) and outward-wound faces, in no particular order.
    """
    raw = polygonise(field)
    wanted, scale = edge_sizing(hand), 1.0
    for _ in range(4):
        mesh = _coarsen(*raw, field, lambda p, s=scale: s * wanted(p))
        if abs(mesh.vertex_count - VERTEX_COUNT) < 25:
            break
        scale *= (mesh.vertex_count / VERTEX_COUNT) ** 0.5
    _reach_count(mesh, field, wanted)
    # Pinned before the last relaxations: pinned after them, the tips come out chopped.
    pinned = _pin_tips(mesh, field, hand)
    for _ in range(5):
        relax(mesh, field, wanted, steps=6, pinned=pinned)
        _flip_all(mesh)
    relax(mesh, field, wanted, steps=6, pinned=pinned)
    vertices, faces, _ = mesh.compact()
    return vertices, faces
