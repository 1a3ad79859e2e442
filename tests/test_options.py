"""Options: a misspelt value of any field with fixed choices, of any configuration, is refused with the choices."""

import dataclasses
import importlib
import pkgutil
import typing
from dataclasses import dataclass
from typing import Literal

import pytest

import minimaskrcnn
from minimaskrcnn.options import CheckedOptions, choices


def configurations() -> list[type]:
    """Every configuration of the package, wherever it is."""
    found = set()
    for module in pkgutil.walk_packages(minimaskrcnn.__path__, "minimaskrcnn."):
        # Running the command line, and what needs triton.
        if module.name not in ("minimaskrcnn.__main__", "minimaskrcnn.ops.roi_align_triton"):
            values = vars(importlib.import_module(module.name)).values()
            found |= {value for value in values if is_configuration(value)}
    return sorted(found, key=lambda kind: kind.__name__)


def is_configuration(value: object) -> bool:
    own = isinstance(value, type) and value.__module__.startswith("minimaskrcnn")
    return own and dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen and has_defaults(value)


def has_defaults(kind: type) -> bool:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return bool(fields) and all(f.default is not missing or f.default_factory is not missing for f in fields)


def fields_with_choices() -> list[tuple[type, str]]:
    return [
        (kind, name)
        for kind in configurations()
        for name, hint in typing.get_type_hints(kind).items()
        if choices(hint)
    ]


def test_all_configurations_are_looked_at():
    names = {kind.__name__ for kind in configurations()}
    assert {"TrainConfig", "AugmentConfig", "ToyboxConfig", "ViewsConfig", "MaskRCNNConfig", "RPNConfig"} <= names
    assert ("TrainConfig", "optimizer") in {(kind.__name__, name) for kind, name in fields_with_choices()}


@pytest.mark.unhooked
@pytest.mark.parametrize("kind, name", fields_with_choices(), ids=lambda value: getattr(value, "__name__", value))
def test_a_misspelt_option_is_refused_with_the_choices(kind, name):
    for value in choices(typing.get_type_hints(kind)[name]):
        assert getattr(kind(**{name: value}), name) == value
        with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{name} must be one of .*, got ") as error:
            kind(**{name: f"{value}x"})
        assert repr(value) in str(error.value) and repr(f"{value}x") in str(error.value)


@pytest.mark.unhooked
def test_none_may_be_a_choice():
    @dataclass(frozen=True)
    class Config(CheckedOptions):
        how: Literal["a", "b"] | None = None
        size: int | None = None

    assert (Config().how, Config("b").how) == (None, "b")
    with pytest.raises(ValueError, match=r"how must be one of 'a', 'b', None, got 'c'"):
        Config("c")
