"""Whether scanners come with cuts of their own, which is asked before the first scan."""

from __future__ import annotations

from collections.abc import Iterable

from moth_eval.errors import InputError

from .tasks import parse_scanner


def require_rules(specs: Iterable[str], *, instead: str) -> None:
    """Make sure that the settings of every scanner give a cut.

    Plug-ins that do not say so beforehand pass: their scans will tell.

    Args:
        specs: as `--scanner` named them.
        instead: what to do where there is none.

    Raises:
        InputError: a scanner's settings give no cut.
    """
    for spec in specs:
        why = _without_rule(spec)
        if why:
            raise InputError(f"scanner {spec!r} has no cut: {why}; {instead}")


def _without_rule(spec: str) -> str:
    from moth_eval.plugins import build, resolve
    from moth_eval.scan import Ruled
    from scanners import ENTRY_POINTS, SCANNERS

    method, parameters = parse_scanner(spec)
    scanner = build(resolve(method, SCANNERS, ENTRY_POINTS), parameters)
    return scanner.without_rule() if isinstance(scanner, Ruled) else ""
