"""Whether scanners come with cuts of their own, which is asked before the first scan."""

from __future__ import annotations

from collections.abc import Sequence

from moth_eval.errors import InputError

from .tasks import parse_scanner


def require_rules(specs: Sequence[str], *, instead: str) -> None:
    """Make sure that the settings of a scanner give a cut, of one at least where there are several.

    Plug-ins that do not say so beforehand pass: their scans will tell.

    Args:
        specs: as `--scanner` named them.
        instead: what to do where there is none.

    Raises:
        InputError: no scanner's settings give a cut.
    """
    reasons = [_without_rule(spec) for spec in specs]
    if all(reasons):
        raise InputError(f"scanner {specs[0]!r} has no cut: {reasons[0]}; {instead}")


def _without_rule(spec: str) -> str:
    from moth_eval.plugins import build, resolve
    from moth_eval.scan import Ruled
    from scanners import ENTRY_POINTS, SCANNERS

    method, parameters = parse_scanner(spec)
    scanner = build(resolve(method, SCANNERS, ENTRY_POINTS), parameters)
    return scanner.without_rule() if isinstance(scanner, Ruled) else ""
