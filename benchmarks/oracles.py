"""Methods that ask for the truth, where there is nobody who knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moth_eval.errors import InputError


def refuse_oracle(method: str, parameters: Mapping[str, Any]) -> None:
    """Make sure that a method chooses by itself.

    Raises:
        InputError: its `selection` is `oracle`.
    """
    if parameters.get("selection") == "oracle":
        raise InputError(
            f"method {method}: selection=oracle needs a study that knows the trigger, "
            "moth-eval removal; expected selection=validation here"
        )
