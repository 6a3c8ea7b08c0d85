"""MANO's posing spelt out in float64 NumPy, one joint and one vertex at a time.

It follows the papers' equations with 4 x 4 transforms down the tree in the file's order, and
shares no code with the product: what both compute alike is right.
"""

import math

import numpy as np

PARENT = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]


def rotation(axis_angle):
    """Rodrigues' formula about the unit axis."""
    angle = math.sqrt(sum(float(a) ** 2 for a in axis_angle))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = (float(a) / angle for a in axis_angle)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    outer = np.outer([x, y, z], [x, y, z])
    return math.cos(angle) * np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * outer


def pose_one_hand(model, tips, *, global_orient, hand_pose, betas, transl):
    """Vertices (V, 3) and 21 joints of one hand, metres.

    Args:
        model: a HandModel, of which only the arrays are read.
        tips: five vertex numbers.
        global_orient: (3,) radians.
        hand_pose: (15, 3) radians, the mean pose included.
        betas: (S,).
        transl: (3,) metres.
    """
    number = len(model.v_template)
    shaped = np.zeros((number, 3))
    for v in range(number):
        for c in range(3):
            shaped[v, c] = model.v_template[v, c] + model.shapedirs[v, c].dot(betas)

    rest = np.zeros((16, 3))
    for j in range(16):
        for v in np.nonzero(model.J_regressor[j])[0]:
            rest[j] += model.J_regressor[j, v] * shaped[v]

    rotations = [rotation(global_orient)] + [rotation(a) for a in hand_pose]
    feature = np.concatenate([(R - np.eye(3)).reshape(9) for R in rotations[1:]])
    posed_shape = np.zeros((number, 3))
    for v in range(number):
        for c in range(3):
            posed_shape[v, c] = shaped[v, c] + model.posedirs[v, c].dot(feature)

    world, relative = [], []
    for j in range(16):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = rest[j] - (rest[PARENT[j]] if j else 0)
        world.append(world[PARENT[j]] @ local if j else local)
        back = np.eye(4)
        back[:3, 3] = -rest[j]
        relative.append(world[j] @ back)

    vertices = np.zeros((number, 3))
    for v in range(number):
        T = np.zeros((4, 4))
        for j in np.nonzero(model.lbs_weights[v])[0]:
            T += model.lbs_weights[v, j] * relative[j]
        vertices[v] = (T @ np.append(posed_shape[v], 1.0))[:3]
    joints = np.array([T[:3, 3] for T in world] + [vertices[v] for v in tips])
    return vertices + transl, joints + transl
