"""What users import: a change here is a change for them."""

import importlib
from pathlib import Path

import pytest

from mano_jax import UserError

PUBLIC = {
    "mano_jax": {"Hands", "HandModel", "PosedHands", "load_hands", "pose_hands", "pose_joints"},
    "objectives": {"TERMS", "Observations", "TwoHandParams", "term_energies", "make_priors"},
    "fitting": {"TwoHandPredictions", "Strategy", "Stage", "refine", "RefinedHands", "read_input"},
}


@pytest.mark.parametrize("package", PUBLIC)
def test_exports_exist_and_are_sorted(package):
    module = importlib.import_module(package)
    assert set(module.__all__) >= PUBLIC[package]
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert module.__all__ == sorted(module.__all__, key=_constants_then_classes_then_functions)


def _constants_then_classes_then_functions(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), name[0].islower(), name


def test_one_class_catches_every_error_of_the_users():
    modules = [importlib.import_module(package) for package in PUBLIC]
    public = {
        name
        for module in modules
        for name in module.__all__
        if isinstance(getattr(module, name), type) and issubclass(getattr(module, name), Exception)
    }
    assert public == {"UserError", "HandFileError", "InputError"}
    # UserError itself, the two others, and what they become for one kind of file.
    assert len(_with_subclasses(UserError)) == 6


def _with_subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(_with_subclasses(inner) for inner in kind.__subclasses__()))


def test_dependencies_point_one_way():
    """experiments -> fitting -> objectives -> mano_jax, and never back."""
    order = ["mano_jax", "objectives", "fitting", "experiments"]
    root = Path(__file__).parents[1]
    for level, package in enumerate(order):
        later = order[level + 1 :] + ["tests"]
        for path in (root / package).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]):
                    assert words[1].split(".")[0] not in later, f"{path}: {line}"


def test_every_public_function_is_documented():
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert thing.__doc__, f"{package}.{name}"
