"""Frames in batches of one size, so that one compiled program serves them all."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def batches(tree: Any, size: int) -> Iterator[tuple[int, Any]]:
    """Cut a pytree of arrays along its frames.

    The last batch is filled up with copies of its last frame. Yields the number of real frames
    too.
    """
    tree = jax.tree.map(np.asarray, tree)
    count = jax.tree.leaves(tree)[0].shape[0]
    for first in range(0, count, size):
        rows = np.minimum(np.arange(first, first + size), count - 1)
        yield min(size, count - first), jax.tree.map(lambda x, rows=rows: x[rows], tree)
