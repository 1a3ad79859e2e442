"""Options with fixed choices: a value that is none of them is refused when a configuration is made."""

import types
import typing


class CheckedOptions:
    """The base of configurations: ValueError where a field whose type is a `Literal` has none of its values."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            options = choices(hint)
            value = getattr(self, name)
            if options and value not in options:
                listed = ", ".join(map(repr, options))
                raise ValueError(f"{type(self).__name__}.{name} must be one of {listed}, got {value!r}")


def choices(hint: object) -> tuple[object, ...]:
    """The values that a type allows where it is a `Literal`, or one of these and None; empty for other types."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    parts = typing.get_args(hint) if is_union else (hint,)
    if all(part is types.NoneType or typing.get_origin(part) is typing.Literal for part in parts):
        return tuple(value for part in parts for value in (typing.get_args(part) or (None,)))
    return ()
