"""Hand files of any provenance, validated on entry.

    MANO_RIGHT.pkl / MANO_LEFT.pkl   the official files (read without chumpy), their cleaned
                                     copies, and our own export
    MANO_RIGHT.npz / MANO_LEFT.npz   the same names, all dense

The left hand comes from its own file, whose shape blend shapes are put right where they need it,
or is the mirrored right one. Whatever was done is said in the `HandSource`.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mano_jax.files import UNREADABLE_ARCHIVE
from mano_jax.joint_orders import DEFAULT_FINGERTIPS, fingertip_vertices
from mano_jax.kinematics import PARENTS
from mano_jax.model import HandModel, Hands, Side, mirrored, two_hands
from mano_jax.pickles import HandFileError, read_pickle
from mano_jax.procedural import embedded_hand_model
from mano_jax.topology import boundary_loop

HANDS_VARIABLE: Final = "MANOFIT_HANDS"
"""Environment variable naming the hand files where a call does not."""

HOW_TO_GET_MANO: Final = (
    "the genuine hand is free for research: register at https://mano.is.tue.mpg.de, download "
    f"mano_v1_2.zip, and name its `models` folder in {HANDS_VARIABLE} or with --hands"
)

GENUINE_MD5: Final = {
    "right": "fd5a9d35f914987cf1cc04ffe338caa1",
    "left": "11aeaca8631aa20db964d4eba491e885",
}
"""Checksums of the official mano_v1_2 files, as HO-3D's setup program lists them."""

LeftShapedirs = Literal["mirrored right", "correct", "raw", "negated", "y and z negated", "own"]
"""What a left file's shape blend shapes were when found, see `_restored_left`."""

_FOLDERS: Final = ("", "mano", "models", "mano/models", "models/mano", "mano_v1_2/models")
_SUFFIXES: Final = (".pkl", ".npz")
_REQUIRED: Final = (
    "v_template shapedirs posedirs J_regressor weights f hands_components hands_mean".split()
)

# The longest side of a hand, metres; an adult's is about 0.2.
_PLAUSIBLE_SIZE: Final = (0.05, 0.5)


@dataclass(frozen=True)
class HandSource:
    """Where two hands came from and what was done to them."""

    right_file: Path | None
    """The right hand's file; None is the embedded hand."""
    left_file: Path | None
    """The left hand's file; None is the mirrored right hand."""
    right_md5: str | None
    """Checksum of the right file."""
    left_md5: str | None
    """Checksum of the left file."""
    left_shapedirs: LeftShapedirs
    """State in which the left file's shape blend shapes were found."""
    num_vertices: int
    """Vertices of one hand."""
    num_faces: int
    """Triangles of one hand."""
    num_betas: int
    """Shape coefficients."""
    num_pose_samples: tuple[int, int]
    """Pose samples of the right and the left hand."""
    fingerprint: str
    """Hash of both hands' arrays, the same for the same hands in any file format."""
    notes: tuple[str, ...]
    """What a user should know: fixes made, and how to get the genuine hand."""

    @property
    def embedded(self) -> bool:
        """Whether these are the hands that come with the program."""
        return self.right_file is None

    @property
    def genuine(self) -> tuple[bool, bool]:
        """Whether the right and the left file are the official ones, byte by byte."""
        return self.right_md5 == GENUINE_MD5["right"], self.left_md5 == GENUINE_MD5["left"]

    def summary(self) -> str:
        """The record as lines for a terminal."""
        right = "embedded" if self.right_file is None else _labelled(self.right_file, "right", self)
        left = "mirrored right hand"
        if self.left_file is not None:
            left = _labelled(self.left_file, "left", self)
        samples = " and ".join(str(count) for count in self.num_pose_samples)
        lines = [
            f"right hand: {right}",
            f"left hand: {left}",
            f"{self.num_vertices} vertices, {self.num_faces} faces, {self.num_betas} betas, "
            f"{samples} pose samples, fingerprint {self.fingerprint}",
        ]
        return "\n".join([*lines, *self.notes])


def load_hands(
    path: str | os.PathLike[str] | None = None,
    *,
    fingertips: str = DEFAULT_FINGERTIPS,
    dtype: DTypeLike = jnp.float32,
) -> Hands:
    """Both hands, ready to be posed.

    Args:
        path: a folder with MANO_RIGHT and perhaps MANO_LEFT (.pkl or .npz), or a right-hand file
            (a left one beside it is used). None takes the environment variable MANOFIT_HANDS,
            and where that is not set the embedded hand.
        fingertips: a set of `joint_orders.FINGERTIP_VERTICES`.
        dtype: float32, or float64 (needs JAX's x64 mode).

    Raises:
        HandFileError: a file is missing, unsafe, corrupt or no MANO hand; the message says what.
    """
    right, left, source = read_hand_models(path)
    highest = int(fingertip_vertices(fingertips).max())
    if highest >= source.num_vertices:
        raise HandFileError(
            f"{source.right_file}: v_template has {source.num_vertices} vertices, but the "
            f"fingertip set {fingertips!r} needs vertex {highest}; is the mesh simplified?"
        )
    return two_hands(right, left, fingertips=fingertips, dtype=jnp.dtype(dtype))


def describe_hands(path: str | os.PathLike[str] | None = None) -> HandSource:
    """Which hands `load_hands(path)` uses, and what it does to them."""
    return read_hand_models(path)[2]


def read_hand_models(
    path: str | os.PathLike[str] | None = None,
) -> tuple[HandModel, HandModel, HandSource]:
    """The right hand, the left hand, and where they came from; arguments as for `load_hands`."""
    named = path or os.environ.get(HANDS_VARIABLE)
    if not named:
        right = embedded_hand_model()
        note = f"this is the embedded hand, not MANO's: {HOW_TO_GET_MANO}"
        left = mirrored(right)
        return right, left, _source(right, left, (None, None), "mirrored right", (note,))

    right_file, left_file = find_hand_files(Path(named).expanduser())
    right = read_hand_file(right_file, "right")
    if left_file is None:
        left = mirrored(right)
        note = f"no left-hand file beside {right_file}: the left hand is the mirrored right one"
        files = (right_file, None)
        return right, left, _source(right, left, files, "mirrored right", (note,))
    left = read_hand_file(left_file, "left")
    _check_pair(right, left, left_file)
    left, state, notes = _restored_left(right, left, left_file)
    return right, left, _source(right, left, (right_file, left_file), state, notes)


def find_hand_files(path: Path) -> tuple[Path, Path | None]:
    """The right-hand file that a path means, and the left one beside it, if there is one.

    Args:
        path: a right-hand file, or a folder that holds one directly or in a `mano` or `models`
            folder. Names may be in any case; a .pkl goes before an .npz.

    Raises:
        HandFileError: there is no such path, or no right-hand file in it.
    """
    if path.is_file():
        return path, _left_sibling(path)
    if not path.exists():
        raise HandFileError(
            f"{path} does not exist; expected a folder with MANO_RIGHT.pkl (or .npz), or such a "
            f"file; {HOW_TO_GET_MANO}"
        )
    for inner in _FOLDERS:
        folder = _subfolder(path, inner)
        right = None if folder is None else _named(folder, "mano_right", _SUFFIXES)
        if right is not None:
            return right, _left_sibling(right)
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:20]) or "nothing"
    raise HandFileError(
        f"{path} holds no MANO_RIGHT.pkl or MANO_RIGHT.npz, nor do its folders mano and models; "
        f"found: {found}; {HOW_TO_GET_MANO}"
    )


def read_hand_file(path: Path, side: Side) -> HandModel:
    """One hand as its file describes it, checked; a left hand's shapedirs as they are.

    Args:
        path: a .pkl or .npz file in MANO's layout, official or cleaned.
        side: the side that the file must be of.

    Raises:
        HandFileError: naming the file, the key, what was expected and what was found.
    """
    return _hand_model(_read_entries(path), side, path)


def _read_entries(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".pkl":
        return read_pickle(path)
    if path.suffix.lower() != ".npz":
        raise HandFileError(f"{path}: expected a .pkl or .npz file, found {path.suffix or path}")
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except UNREADABLE_ARCHIVE as error:
        remedy = "copy it again"
        if "allow_pickle" in str(error):
            remedy = "save its entries as plain arrays: object arrays may run code and are refused"
        raise HandFileError(f"{path} is no readable .npz file ({error}); {remedy}") from error


def _hand_model(entries: dict[str, Any], side: Side, path: Path) -> HandModel:
    missing = [key for key in _REQUIRED if key not in entries]
    if missing:
        raise HandFileError(
            f"{path} lacks {', '.join(missing)}; found {', '.join(sorted(entries)) or 'nothing'}; "
            "is it a MANO hand file?"
        )
    v_template = _floats(entries, "v_template", ("V", 3), path)
    V = len(v_template)
    _check_size(v_template, path)
    components = _floats(entries, "hands_components", (45, 45), path)
    mean = _floats(entries, "hands_mean", (45,), path)
    samples = None
    if "hands_coeffs" in entries:
        coefficients = _floats(entries, "hands_coeffs", ("samples", 45), path)
        samples = coefficients @ components + mean if len(coefficients) else None
    model = HandModel(
        side=side,
        v_template=v_template,
        shapedirs=_floats(_unflattened(entries, "shapedirs", V), "shapedirs", (V, 3, "S"), path),
        posedirs=_floats(_unflattened(entries, "posedirs", V), "posedirs", (V, 3, 135), path),
        J_regressor=_floats(entries, "J_regressor", (16, V), path),
        lbs_weights=_floats(entries, "weights", (V, 16), path),
        faces=_faces(entries, V, path),
        pose_mean=mean,
        pose_components=components,
        pose_samples=samples,
    )
    if "J" in entries:
        _floats(entries, "J", (16, 3), path)
    _check_weights(model.lbs_weights, path)
    _check_tree(entries, path)
    _check_side(model, path)
    return model


def _unflattened(entries: dict[str, Any], key: str, V: int) -> dict[str, Any]:
    """Cleaned files may store blend shapes as one long row; anything else is left to the check."""
    value = entries[key]
    if (
        isinstance(value, np.ndarray)
        and value.ndim == 1
        and value.size
        and not value.size % (3 * V)
    ):
        return {key: value.reshape(V, 3, -1)}
    return entries


def _array(
    entries: dict[str, Any], key: str, shape: tuple[int | str, ...], path: Path
) -> np.ndarray:
    value = entries[key]
    expected = "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    if not isinstance(value, np.ndarray):
        raise HandFileError(
            f"{path}: {key} should be an array of shape {expected}, found {type(value).__name__}"
        )
    fits = value.ndim == len(shape) and all(
        size == wanted or isinstance(wanted, str)
        for size, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise HandFileError(
            f"{path}: {key} should have the shape {expected}, found {value.shape}; is it a MANO "
            "hand file (778 vertices, 16 joints), and of one piece?"
        )
    return value


def _floats(
    entries: dict[str, Any], key: str, shape: tuple[int | str, ...], path: Path
) -> np.ndarray:
    value = _array(entries, key, shape, path)
    if value.dtype.kind not in "fiu":
        raise HandFileError(f"{path}: {key} should hold real numbers, found {value.dtype}")
    value = value.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(value)))
    if bad:
        raise HandFileError(
            f"{path}: {key} should be finite, found {bad} entries that are not; "
            "the file is damaged: copy it again"
        )
    return value


def _faces(entries: dict[str, Any], V: int, path: Path) -> np.ndarray:
    stored = _array(entries, "f", ("F", 3), path)
    if stored.dtype.kind not in "iu":
        raise HandFileError(f"{path}: f should hold integers, found {stored.dtype}")
    faces = stored.astype(np.int64)
    if faces.size and (faces.min() < 0 or faces.max() >= V):
        raise HandFileError(
            f"{path}: f should hold vertices 0 to {V - 1}, found {faces.min()} to {faces.max()}"
        )
    try:
        boundary_loop(faces)
    except ValueError as error:
        raise HandFileError(
            f"{path}: f should be a surface open at the wrist alone: {error}; a file with the "
            "wrist closed needs its cap removed"
        ) from error
    return faces


def _check_size(v_template: np.ndarray, path: Path) -> None:
    size = float(np.ptp(v_template, axis=0).max()) if v_template.size else 0.0
    low, high = _PLAUSIBLE_SIZE
    if not low <= size <= high:
        raise HandFileError(
            f"{path}: v_template should be a hand in metres, {low} to {high} long; found {size:g} "
            "(millimetres? divide v_template, shapedirs and posedirs by 1000)"
        )


def _check_weights(weights: np.ndarray, path: Path) -> None:
    error = np.abs(weights.sum(axis=1) - 1.0)
    if error.max() > 1e-3:
        row = int(error.argmax())
        raise HandFileError(
            f"{path}: each row of weights should sum to 1; row {row} sums to {weights[row].sum():g}"
        )


def _check_tree(entries: dict[str, Any], path: Path) -> None:
    """The tree is MANO's or the file is not a MANO hand; cleaned files may leave it out."""
    if "kintree_table" not in entries:
        return
    table = _array(entries, "kintree_table", (2, 16), path)
    if table.dtype.kind not in "iu":
        raise HandFileError(f"{path}: kintree_table should hold integers, found {table.dtype}")
    # Entry [0, 0] is a sentinel, -1 as an unsigned integer or not.
    parents = tuple(int(parent) for parent in table[0, 1:])
    if parents != PARENTS[1:]:
        raise HandFileError(
            f"{path}: kintree_table should have the parents {PARENTS[1:]} (after the wrist's), "
            f"found {parents}: another joint order than MANO's"
        )


def _check_side(model: HandModel, path: Path) -> None:
    """The right template's fingers point along -x from the wrist, the left one's along +x."""
    joints = model.J_regressor @ model.v_template
    reach = float(joints[1:13, 0].mean() - joints[0, 0])
    found: Side = "right" if reach < 0 else "left"
    if found != model.side:
        raise HandFileError(
            f"{path} should be a {model.side} hand, but its v_template is a {found} one (fingers "
            f"along {'-x' if found == 'right' else '+x'}); give the MANO_{model.side.upper()} file"
        )


def _check_pair(right: HandModel, left: HandModel, left_file: Path) -> None:
    for key, name in (("v_template", "v_template"), ("shapedirs", "shapedirs"), ("f", "faces")):
        wanted, found = getattr(right, name).shape, getattr(left, name).shape
        if wanted != found:
            raise HandFileError(
                f"{left_file}: {key} should have the right hand's shape {wanted}, found {found}; "
                "take both hands from one source"
            )


def _restored_left(
    right: HandModel, left: HandModel, path: Path
) -> tuple[HandModel, LeftShapedirs, tuple[str, ...]]:
    """The left hand with shape blend shapes that mirror the right hand's.

    The official left file holds the right hand's blend shapes, their x not mirrored (smplx issue
    48); some programs repair that on disk, one negates all three coordinates instead (H2O-3D's
    setup). So x, and y with z, are each compared with the right hand's, with either sign. Others
    test whether the sum over abs(L_x - R_x) is below 1 (m); a tenth of the sum over abs(R_x) is
    about that for MANO, and holds for any number of betas.
    """
    x_sign = _relative_sign(left.shapedirs[:, :1], right.shapedirs[:, :1])
    yz_sign = _relative_sign(left.shapedirs[:, 1:], right.shapedirs[:, 1:])
    if x_sign is None or yz_sign is None:
        note = f"{path}: shapedirs are not the right hand's mirror image; used as they are"
        return left, "own", (note,)
    repairs: dict[tuple[bool, bool], tuple[LeftShapedirs, str]] = {
        (True, False): ("raw", "x negated (the official left file has the right hand's)"),
        (False, True): ("negated", "y and z negated (the file has all three negated)"),
        (True, True): ("y and z negated", "all three negated (the file has y and z negated)"),
    }
    wrong = (x_sign == 1, yz_sign == -1)
    if wrong not in repairs:
        return left, "correct", ()
    state, what = repairs[wrong]
    flip = np.where([wrong[0], wrong[1], wrong[1]], -1.0, 1.0)
    note = f"{path}: shapedirs put right, {what}"
    return replace(left, shapedirs=left.shapedirs * flip[:, None]), state, (note,)


def _relative_sign(left: np.ndarray, right: np.ndarray) -> int | None:
    """1 where left = right, -1 where left = -right, 0 where both are zero, else None."""
    whole = np.abs(right).sum()
    if whole == 0 and not left.any():
        return 0
    errors = {sign: np.abs(left - sign * right).sum() for sign in (1, -1)}
    sign = min(errors, key=lambda candidate: float(errors[candidate]))
    return sign if errors[sign] < 0.1 * whole else None


def _source(
    right: HandModel,
    left: HandModel,
    hand_files: tuple[Path | None, Path | None],
    left_shapedirs: LeftShapedirs,
    notes: tuple[str, ...],
) -> HandSource:
    right_md5, left_md5 = (None if file is None else _md5(file) for file in hand_files)
    counts = [0 if m.pose_samples is None else len(m.pose_samples) for m in (right, left)]
    return HandSource(
        right_file=hand_files[0],
        left_file=hand_files[1],
        right_md5=right_md5,
        left_md5=left_md5,
        left_shapedirs=left_shapedirs,
        num_vertices=len(right.v_template),
        num_faces=len(right.faces),
        num_betas=right.shapedirs.shape[-1],
        num_pose_samples=(counts[0], counts[1]),
        fingerprint=fingerprint((right, left)),
        notes=notes,
    )


def fingerprint(models: Iterable[HandModel]) -> str:
    """Sixteen hexadecimal digits that name hands by their arrays, whatever file held them.

    Pose samples stay out: files hold them as coefficients, which costs a rounding.
    """
    digest = hashlib.sha256()
    for model in models:
        digest.update(model.side.encode())
        for name in (
            "v_template",
            "shapedirs",
            "posedirs",
            "J_regressor",
            "lbs_weights",
            "faces",
            "pose_mean",
            "pose_components",
        ):
            kind = "<i8" if name == "faces" else "<f8"
            # Adding zero turns -0.0 into 0.0: a mirrored hand has both, and they are equal.
            value = np.ascontiguousarray(getattr(model, name), kind) + np.zeros((), kind)
            digest.update(f"{name}{value.shape}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _labelled(path: Path, side: Side, source: HandSource) -> str:
    genuine = source.genuine[0 if side == "right" else 1]
    return f"{path}{' (genuine MANO v1.2)' if genuine else ''}"


def _subfolder(path: Path, inner: str) -> Path | None:
    """`path / inner`, each name matched in any case."""
    for part in inner.split("/") if inner else ():
        entries = sorted(entry for entry in path.iterdir() if entry.name.lower() == part)
        found = [entry for entry in entries if entry.is_dir()]
        if not found:
            return None
        path = found[0]
    return path if path.is_dir() else None


def _named(folder: Path, stem: str, suffixes: Iterable[str]) -> Path | None:
    """The file of that stem in any case, by the first suffix that has one."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    for suffix in suffixes:
        for file in files:
            if file.name.lower() == stem + suffix:
                return file
    return None


def _left_sibling(right_file: Path) -> Path | None:
    """The file named like the right hand's with `left` for `right`; its own format goes first."""
    stem, count = re.subn("right", "left", right_file.stem.lower())
    if not count:
        return None
    own = right_file.suffix.lower()
    suffixes = [own, *(suffix for suffix in _SUFFIXES if suffix != own)]
    return _named(right_file.parent, stem, suffixes)
