"""Checks that anybody may run on a scanner, a hardener or an attack of their own.

Plain functions that raise `AssertionError` with a sentence; no test framework is needed::

    check_scanner(MyScanner())

Under pytest, one test per rule::

    @pytest.mark.parametrize("check", scanner_checks(), ids=str)
    def test_my_scanner(check):
        check(MyScanner())
"""

from __future__ import annotations

from .attack_rules import attack_checks, check_attack
from .checks import Check
from .hardener_rules import check_hardener, hardener_checks
from .scanner_rules import check_scanner, scanner_checks
from .subjects import small_subject

__all__ = [
    "Check",
    "attack_checks",
    "check_attack",
    "check_hardener",
    "check_scanner",
    "hardener_checks",
    "scanner_checks",
    "small_subject",
]
