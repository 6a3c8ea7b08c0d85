"""A file under the wrong `--from`: what is noticed, and the table of it in the documentation."""

# numpy.save does take dictionaries.
# pyright: reportArgumentType=false

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.format_tables import conventions_table
from fitting.adapters import FORMATS, Reading, check_conversion, read_foreign, recognise
from fitting.canonical import write_arrays
from fitting.errors import InputError
from tests.foreign import datasets, hamer, joints, meshes, weak
from tests.foreign.scene import make_scene
from tests.test_adapters import vitra_episode
from tests.test_joint_formats import write_aria, write_table

ROOT = Path(__file__).parents[1]

NAMED, NOTICED, CHECKED, TAKEN = "named", "error", "self-check", "taken"


def write_all(folder, hands):
    """A file of every format."""
    plain, average = make_scene(3), make_scene(3, zero_betas=True)
    person = make_scene(3, constant_betas=True)
    files = {
        "ihmr": weak.write_ihmr(folder / "ihmr.pkl", plain, annotations=False),
        "interwild": weak.write_interwild(folder / "interwild", plain),
        "hamer": hamer.write_hamer(folder / "hamer.pkl", plain),
        "wilor_mini": hamer.write_wilor_mini(folder / "mini.pkl", plain),
        "acr": weak.write_acr(folder / "acr.pkl", plain),
        "dir": weak.write_dir(folder / "dir.pkl", plain),
        "frankmocap": weak.write_frankmocap(folder / "mocap", average),
        "s2hand": datasets.write_s2hand(folder / "s2hand.pkl", make_scene(3, components=30)),
        "interhand": datasets.write_interhand(folder / "x_MANO_NeuralAnnot.json", plain),
        "freihand": datasets.write_freihand(folder / "freihand", plain),
        "ho3d": datasets.write_ho3d(folder / "ho3d", plain),
        "dexycb": datasets.write_dexycb(folder / "dexycb", person),
        "hot3d": datasets.write_hot3d(folder / "hot3d.jsonl", make_scene(3, components=15)),
        "internet": joints.write_internet(folder / "internet.npz", plain),
        "openpose": joints.write_openpose(folder / "openpose", plain),
        "mediapipe": joints.write_mediapipe(folder / "mediapipe.json", plain),
        "intaghand": meshes.write_intaghand(folder / "intaghand.pkl", plain),
        "im2hands": meshes.write_im2hands(folder / "im2hands", plain),
    }
    paths = {name: written.path for name, written in files.items()}
    points = np.random.default_rng(0).normal(0, 0.1, (4, 2, 21, 3))
    write_aria(folder / "aria.csv", points)
    write_table(folder / "table.csv", points)
    np.savez(
        folder / "leap.npz",
        fingers_mm=np.zeros((4, 2, 5, 4, 3)),
        confidence=np.ones((4, 2)),
        timestamp_us=np.arange(4.0),
    )
    np.save(folder / "vitra.npy", vitra_episode(hands)[0], allow_pickle=True)
    reading = Reading(hands)
    known = read_foreign(paths["hot3d"], source="hot3d", reading=reading)[0].predictions
    write_arrays(folder / "canonical.npz", known.arrays())
    own = {"aria": "aria.csv", "table": "table.csv", "leap": "leap.npz", "vitra": "vitra.npy"}
    own["canonical"] = "canonical.npz"
    return paths | {name: folder / file for name, file in own.items()}


def outcome(path, source, right, reading):
    """What becomes of a file of the format `right` read as `source`."""
    try:
        conversion, taken = read_foreign(path, source=source, reading=reading)
    except InputError as error:
        return NAMED if f"--from {right}" in str(error) else NOTICED
    check = check_conversion(conversion, taken.conventions, reading.hands)
    return TAKEN if check.passed else CHECKED


@pytest.fixture(scope="module")
def files(tmp_path_factory, hands):
    return write_all(tmp_path_factory.mktemp("formats"), hands)


@pytest.fixture(scope="module")
def outcomes(files, hands):
    reading = Reading(hands)
    return {
        (right, source): outcome(path, source, right, reading)
        for right, path in files.items()
        for source in FORMATS
        if FORMATS[source].read is not FORMATS[right].read
    }


def matrix(outcomes):
    """The table of the documentation."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*outcomes, strict=True))
    columns = [name for name in FORMATS if name in columns]
    lines = [f"| file of | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for right in rows:
        cells = [outcomes.get((right, source), "") for source in columns]
        lines.append(f"| `{right}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_every_format_is_recognised(files, hands):
    for right, path in files.items():
        found = recognise(path, FORMATS.values())
        assert {format.read for format in found} == {FORMATS[right].read}, right
        _, taken = read_foreign(path, source="auto", reading=Reading(hands))
        assert taken.read is FORMATS[right].read


def test_nine_of_ten_wrong_names_are_put_right(outcomes):
    named = [pair for pair, what in outcomes.items() if what == NAMED]
    assert len(named) >= 0.9 * len(outcomes)
    assert not [pair for pair, what in outcomes.items() if what == TAKEN]


def test_the_table_is_the_documentations(outcomes):
    assert matrix(outcomes) in (ROOT / "docs/adapters.md").read_text()


def test_the_conventions_are_the_documentations():
    assert conventions_table() in (ROOT / "docs/regressors.md").read_text()


def test_two_formats_that_fit_are_refused(tmp_path, hands):
    both = {"pose": [0] * 48, "shape": [0] * 10, "trans": [0] * 3}
    both |= {"root_pose": [0] * 3, "hand_pose": [0] * 45, "root_trans": [0] * 3}
    (tmp_path / "file.json").write_text(json.dumps(both))
    with pytest.raises(InputError, match="both .*interwild.* and .*interhand.* fit"):
        read_foreign(tmp_path / "file.json", source="auto", reading=Reading(hands))


def test_an_unknown_file_lists_what_is_known(tmp_path, hands):
    (tmp_path / "file.json").write_text('{"nothing": 1}')
    with pytest.raises(InputError, match="no known format") as error:
        read_foreign(tmp_path / "file.json", source="auto", reading=Reading(hands))
    assert all(name in str(error.value) for name in FORMATS)
