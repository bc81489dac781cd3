"""Which versions a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from moth_eval import __version__

DISTRIBUTIONS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "safetensors")


def versions() -> dict[str, str]:
    """Name -> version of this package, Python, the platform and the libraries in use."""
    found = {
        "moth-eval": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found
