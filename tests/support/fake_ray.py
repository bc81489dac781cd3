"""As much of Ray as the engine uses, in one process: every task is done when it is waited for."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class TaskOSError(RayError, OSError):
    """What Ray makes of an `OSError` of a task."""


class FakeRay:
    """A cluster of two processors; tasks named in `lost` are given up.

    Attributes:
        calls: what was asked of it, in order.
        most: the most tasks that were in flight at a time.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, lost: Sequence[Any] = (), unreachable: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.most = 0
        self._lost = lost
        self._unreachable = unreachable
        self._open: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._numbers = itertools.count()
        self._started = False

    def is_initialized(self) -> bool:
        return self._started

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))
        if self._unreachable:
            raise ConnectionError(self._unreachable)
        self._started = True

    def shutdown(self) -> None:
        self.calls.append(("shutdown", None))
        self._started = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.calls.append(("remote", options))

        def decorate(function: Callable[..., Any]) -> Any:
            def with_options(**resources: Any) -> Any:
                self.calls.append(("options", resources))
                return SimpleNamespace(remote=lambda *given: self._submit(function, given))

            return SimpleNamespace(options=with_options)

        return decorate

    def _submit(self, function: Callable[..., Any], given: tuple[Any, ...]) -> int:
        number = next(self._numbers)
        self._open[number] = (function, given)
        self.most = max(self.most, len(self._open))
        return number

    def wait(
        self, references: list[int], *, num_returns: int, timeout: float
    ) -> tuple[list[int], list[int]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> Any:
        function, given = self._open.pop(reference)
        if given[1] in self._lost:
            raise RayError("the node died\nmore words")
        try:
            return pickle.loads(pickle.dumps(function(*given)))
        except OSError as error:
            raise TaskOSError(f"a task raised {error}") from error

    def cancel(self, reference: int, *, force: bool) -> None:
        self.calls.append(("cancel", (reference, force)))
