"""Names in a pickled object that stand for something else in its class."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from ..errors import RefusedFile
from .inert_tree import Instance
from .naming import shown

#: The tables in which a module keeps its own tensors and layers.
PARTS = ("_parameters", "_buffers", "_modules")


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


def check_part_names(part: Instance, kind: type[nn.Module]) -> None:
    """Refuses an object one of whose tensors or layers is called as something that its class has.

    Python looks at the class first, so that code which reads `part.forward` gets the method, and
    code which goes through the tables gets the layer: two readers would see two networks. torch
    itself refuses such names in `add_module` and its like.

    Args:
        part: what the file describes.
        kind: the class that it says it is of, or `nn.Module` where that is not known; the tables
            were checked to hold texts only.

    Raises:
        RefusedFile: names the part and the name.
    """
    taken = _taken(kind)  # type: ignore[arg-type] # mypy takes the class for one of its instances
    for table in PARTS:
        for name in part.state.get(table) or ():  # type: ignore[attr-defined]
            if name in taken or name.startswith("__"):
                raise RefusedFile(
                    f"the {part.name} in the file has a part called {shown(name)!r}, which is the "
                    "name of something that its class has, so that it can be read as two different "
                    "networks; save its state dict instead"
                )


@lru_cache(maxsize=1024)
def _taken(kind: type[nn.Module]) -> frozenset[str]:
    """Names that a layer of this class has before it has any part."""
    return frozenset(dir(kind)) | vars(nn.Module()).keys()


def _shadows(kind: type[nn.Module], name: str, value: object) -> bool:
    if name.startswith("__"):
        return True
    own = getattr(kind, name, None)
    if name == "_compiled_call_impl":
        return value is not None
    return callable(own) or hasattr(type(own), "__get__")
