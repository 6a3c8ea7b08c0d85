"""A dictionary of arrays saved with `numpy.save`, read without running it.

NumPy stores such a dictionary as a pickled array of one object. It is taken apart by the machine
of `mano_jax.pickles`, which calls nothing that a file names; two things are added to what it
understands: NumPy scalars, and that one outermost object array.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.errors import InputError
from mano_jax.pickles import HandFileError, _Array, _Dtype, _Machine, _Name

_SCALAR: Final = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
_OBJECT: Final = "O8"


def read_object_npy(path: Path) -> dict[str, Any]:
    """The dictionary in a `.npy` file, its arrays and those of the dictionaries in it.

    Raises:
        InputError: no such file, none of this kind, or one that asks for more than arrays,
            numbers, strings and containers.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: expected a .npy file, found {found}")
    try:
        content = _pickled_part(path)
        machine = _ObjectMachine(path)
        machine.run(content)
    except HandFileError as error:
        raise InputError(f"{path}: holds more than arrays and numbers ({error})") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: no readable .npy file with a dictionary ({error}); copy it again, or name "
            "its format with --from"
        ) from error
    if not isinstance(machine.content, dict):
        raise InputError(f"{path}: expected a dictionary saved with numpy.save, found none")
    return {
        str(key): _with_arrays(value) if isinstance(value, dict) else _as_array(value)
        for key, value in machine.content.items()
    }


class _ObjectMachine(_Machine):
    """The stack machine, for one object array that holds a dictionary."""

    content: Any = None
    """The object in the outermost array."""

    def _name(self, module: Any, name: Any) -> None:
        if isinstance(module, str) and isinstance(name, str) and (module, name) in _SCALAR:
            self.stack.append(_Name(module, name, "scalar"))
        else:
            super()._name(module, name)

    def _reduce(self) -> None:
        name, arguments = self.stack[-2:]
        meaning = name.meaning if isinstance(name, _Name) else None
        if meaning == "scalar" and isinstance(arguments, tuple) and len(arguments) == 2:
            self._pop(2)
            dtype, content = arguments
            if isinstance(content, str):
                content = content.encode("latin1")
            self.stack.append(self._array(content, dtype, (), "C")[()])
        elif meaning == "dtype" and isinstance(arguments, tuple) and arguments[:1] == (_OBJECT,):
            self._pop(2)
            self.stack.append(_Dtype(_OBJECT))
        else:
            super()._reduce()

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if isinstance(dtype, _Dtype) and dtype.code == _OBJECT:
            self._refuse("an array of objects", "only the outermost one is admitted")
        return super()._array(content, dtype, shape, order)

    def _build_array(self, target: _Array, state: tuple) -> None:
        shape, dtype, content = state[-4], state[-3], state[-1]
        is_object = isinstance(dtype, _Dtype) and dtype.code == _OBJECT
        if is_object and shape == () and isinstance(content, list) and len(content) == 1:
            self.content = content[0]
        else:
            super()._build_array(target, state)


def _pickled_part(path: Path) -> bytes:
    """What follows the header of a `.npy` file that holds one object."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if shape != () or not dtype.hasobject:
            raise ValueError(f"it holds an array of shape {shape} and dtype {dtype}")
        return file.read()


def _with_arrays(values: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): _as_array(value) for key, value in values.items()}


def _as_array(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value
