"""Attributes of a pickled object that would stand in for what its class does."""

from __future__ import annotations

from torch import nn

from ..errors import RefusedFile
from .inert_tree import Instance
from .naming import shown


def check_shadows(part: Instance, kind: type[nn.Module]) -> None:
    """Refuses an object whose own attributes would be used in place of methods of its class.

    Args:
        part: what the file describes.
        kind: the class that it says it is of.

    Raises:
        RefusedFile: names the part and the attribute.
    """
    for name, value in part.state.items():
        if _shadows(kind, name, value):
            raise RefusedFile(
                f"the {part.name} in the file replaces its own {shown(name)!r}, so it would not "
                "compute what it seems to; save its state dict instead"
            )


def _shadows(kind: type[nn.Module], name: str, value: object) -> bool:
    if name.startswith("__"):
        return True
    own = getattr(kind, name, None)
    if name == "_compiled_call_impl":
        return value is not None
    return callable(own) or hasattr(type(own), "__get__")
