"""The rasteriser draws the right thing in the right place."""

import os

import numpy as np
import pytest
import trimesh
from PIL import Image

from experiments.render import (
    LEFT_COLOUR,
    RIGHT_COLOUR,
    Mesh,
    camera_view,
    contact_sheet,
    crop_to_pixels,
    hand_meshes,
    orthographic_view,
    rasterise,
    save_png,
    vertex_normals,
)
from fitting.errors import InputError

RED = (1.0, 0.0, 0.0)


def triangle(depth, corners=((2, 2), (12, 2), (2, 12))):
    return np.array([[x, y, depth] for x, y in corners], float)


def sphere(radius, centre=(0.0, 0.0, 0.0), colour=RED, highlight=None):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    points = np.asarray(ball.vertices) + centre
    marks = None if highlight is None else np.full(len(points), highlight)
    return Mesh(points, np.asarray(ball.faces), np.tile(np.array(colour), (len(points), 1)), marks)


def drawn(picture):
    return np.any(picture != 255, axis=-1)


def test_triangle_covers_the_pixels_whose_centres_it_holds():
    faces = np.array([[0, 1, 2]])
    raster = rasterise(triangle(1.0), faces, (20, 16))
    for row in range(16):
        for column in range(20):
            inside = row >= 2 and column >= 2 and row + column <= 14
            assert (raster.face[row, column] == 0) == inside
    assert raster.depth[3, 3] == 1.0 and np.isinf(raster.depth[0, 0])


def test_both_orientations_are_drawn():
    forth = rasterise(triangle(1.0), np.array([[0, 1, 2]]), (20, 16))
    back = rasterise(triangle(1.0), np.array([[0, 2, 1]]), (20, 16))
    np.testing.assert_array_equal(forth.face, back.face)


def test_triangles_that_share_an_edge_leave_no_gap():
    rng = np.random.default_rng(0)
    corners = np.array([[1, 1], [30, 2], [29, 28], [2, 30]]) + rng.uniform(-0.4, 0.4, (4, 2))
    points = np.column_stack([corners, np.ones(4)])
    raster = rasterise(points, np.array([[0, 1, 2], [0, 2, 3]]), (32, 32))
    assert np.all(raster.face[4:27, 4:27] >= 0)


def test_the_nearer_triangle_hides_the_farther_one_in_any_order():
    points = np.concatenate([triangle(2.0), triangle(1.0)])
    for nearer, faces in enumerate(([[3, 4, 5], [0, 1, 2]], [[0, 1, 2], [3, 4, 5]])):
        raster = rasterise(points, np.array(faces), (20, 16))
        assert raster.face[4, 4] == nearer
        assert raster.face[15, 19] == -1


def test_weights_and_depth_are_interpolated():
    points = triangle(1.0)
    points[1, 2] = 2.0
    raster = rasterise(points, np.array([[0, 1, 2]]), (20, 16))
    # Half way from the first corner to the second.
    np.testing.assert_allclose(raster.barycentric[2, 7], [0.5, 0.5, 0.0], atol=1e-12)
    assert raster.depth[2, 7] == pytest.approx(1.5)


def test_what_lies_behind_or_beside_the_picture_is_left_out():
    faces = np.array([[0, 1, 2]])
    assert np.all(rasterise(triangle(-1.0), faces, (20, 16)).face == -1)
    far_off = triangle(1.0) + np.array([100.0, 0.0, 0.0])
    assert np.all(rasterise(far_off, faces, (20, 16)).face == -1)
    line = triangle(1.0, ((2, 2), (4, 4), (6, 6)))
    assert np.all(rasterise(line, faces, (20, 16)).face == -1)


def test_sphere_normals_point_outwards():
    ball = sphere(0.05)
    normals = vertex_normals(ball.vertices, ball.faces)
    np.testing.assert_allclose(normals, ball.vertices / 0.05, atol=0.02)


def test_sphere_is_a_disc_of_its_size():
    picture = orthographic_view(
        [sphere(0.05)],
        direction=(0, 0, 1),
        up=(0, -1, 0),
        size_px=100,
        centre=(0, 0, 0),
        extent_m=0.2,
    )
    disc = drawn(picture)
    assert disc.sum() == pytest.approx(np.pi * 25**2, rel=0.04)
    rows, columns = np.nonzero(disc)
    assert rows.mean() == pytest.approx(49.5, abs=0.2)
    assert columns.mean() == pytest.approx(49.5, abs=0.2)
    # Lit from above the viewer's left shoulder.
    assert picture[35, 40].sum() > picture[65, 60].sum()


def test_view_directions():
    def place(point, direction, up):
        picture = orthographic_view(
            [sphere(0.01, point)],
            direction=direction,
            up=up,
            size_px=80,
            centre=(0, 0, 0),
            extent_m=0.2,
        )
        rows, columns = np.nonzero(drawn(picture))
        return round(float(columns.mean() - 39.5)), round(float(rows.mean() - 39.5))

    # Along OpenCV's z with y down, x goes right and y goes down.
    assert place((0.05, 0, 0), (0, 0, 1), (0, -1, 0)) == (20, 0)
    assert place((0, 0.05, 0), (0, 0, 1), (0, -1, 0)) == (0, 20)
    # From the other side left and right are exchanged; from above, what is far is up.
    assert place((0.05, 0, 0), (0, 0, -1), (0, -1, 0)) == (-20, 0)
    assert place((0, 0, 0.05), (0, 1, 0), (0, 0, 1)) == (0, -20)


def test_view_rejects_a_parallel_up():
    with pytest.raises(ValueError, match="parallel"):
        orthographic_view([sphere(0.01)], direction=(0, 1, 0), up=(0, 1, 0))


def test_highlight_shows_through_what_hides_it():
    meshes = [
        sphere(0.05, colour=(1.0, 1.0, 1.0)),
        sphere(0.01, highlight=1.0),
        sphere(0.05, (0, 0.12, 0), colour=(1.0, 1.0, 1.0)),
    ]
    picture = orthographic_view(
        meshes, direction=(0, 0, 1), up=(0, -1, 0), size_px=100, centre=(0, 0, 0), extent_m=0.3
    ).astype(int)
    assert picture[50, 50, 0] > picture[50, 50, 1] + 80
    # Elsewhere the white sphere stays grey.
    assert np.ptp(picture[50, 60]) < 3


def test_camera_view_projects_as_the_camera_does():
    K = np.array([[300.0, 0, 60.0], [0, 310.0, 45.0], [0, 0, 1]])
    picture = camera_view([sphere(0.01, (0.05, -0.02, 0.6))], size=(120, 90), K=K)
    rows, columns = np.nonzero(drawn(picture))
    assert columns.mean() == pytest.approx(60 + 300 * 0.05 / 0.6, abs=0.3)
    assert rows.mean() == pytest.approx(45 - 310 * 0.02 / 0.6, abs=0.3)


def test_weak_camera_fills_its_crop():
    # u = s (X + t): the sphere's centre is at (0.5, -0.5) of the crop.
    mesh, weak = sphere(0.005, (0.1, 0.0, 0.0)), np.array([5.0, 0.0, -0.1])
    for crop, expected in ((None, (89.5, 19.5)), ((20, 10, 40, 40), (49.5, 19.5))):
        picture = camera_view([mesh], size=(120, 80), weak_camera=weak, crop=crop)
        rows, columns = np.nonzero(drawn(picture))
        assert (columns.mean(), rows.mean()) == pytest.approx(expected, abs=0.3)
    edges = crop_to_pixels(np.array([[-1.0, -1.0], [1.0, 1.0]]), (120, 80))
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [119.5, 79.5]])


def test_camera_view_blends_with_the_image():
    image = np.full((90, 120, 3), 40, np.uint8)
    K = np.array([[300.0, 0, 60.0], [0, 300.0, 45.0], [0, 0, 1]])
    mesh = sphere(0.05, (0, 0, 0.6))
    full, half, none = (
        camera_view([mesh], K=K, image=image, opacity=o).astype(float) for o in (1.0, 0.5, 0.0)
    )
    np.testing.assert_array_equal(none, image)
    np.testing.assert_allclose(half, (full + none) / 2, atol=1)
    assert tuple(full[0, 0]) == (40, 40, 40)


def test_camera_view_says_what_is_missing():
    with pytest.raises(ValueError, match="size"):
        camera_view([sphere(0.01)], K=np.eye(3))
    with pytest.raises(ValueError, match="one camera"):
        camera_view([sphere(0.01)], size=(10, 10))


def test_hand_colours_and_marks(hands):
    vertices = np.array(hands.v_template, float)
    depths = np.zeros(vertices.shape[:2])
    depths[1, :5] = 0.003
    right, left = hand_meshes(vertices, np.asarray(hands.faces), depths=depths)
    np.testing.assert_array_equal(np.unique(right.colours, axis=0), [RIGHT_COLOUR])
    np.testing.assert_array_equal(np.unique(left.colours, axis=0), [LEFT_COLOUR])
    marked = [int(np.sum(m.highlight)) for m in (right, left) if m.highlight is not None]
    assert marked == [0, 5]
    assert len(hand_meshes(vertices, np.asarray(hands.faces), valid=(False, True))) == 1


def test_contact_sheet_holds_every_picture():
    tones = [np.full((20, 30, 3), tone, np.uint8) for tone in (10, 60, 110, 160)]
    sheet = contact_sheet(
        [tones[:2], tones[2:]], row_labels=["a", "b\nc"], column_labels=["x", "y"], title="t"
    )
    for tone in (10, 60, 110, 160):
        assert np.all(sheet == tone, axis=-1).sum() >= 600


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, picture = tmp_path / "new" / "picture.png", np.zeros((4, 5, 3), np.uint8)
    save_png(picture, path)
    np.testing.assert_array_equal(np.array(Image.open(path)), picture)
    before = path.read_bytes()

    def fails(image, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        save_png(picture + 1, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["picture.png"]
    with pytest.raises(InputError, match=r"ends in \.png"):
        save_png(picture, tmp_path / "picture.jpg")
