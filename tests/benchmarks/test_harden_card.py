from __future__ import annotations

import pytest

from benchmarks.harden_card import _table
from moth_eval.text import markdown, markdown_code


@pytest.mark.parametrize(
    "name", ["a|b", "<img src=x onerror=alert(1)>", "[a](javascript:x)", "`x`"]
)
def test_names_act_on_no_markdown_and_stay_in_their_cell(name: str) -> None:
    head, _, row = _table(("what", "value"), [(markdown(name), markdown_code(name))]).splitlines()
    assert head == "| what | value |"
    bare = row.replace("\\\\", "").replace("\\|", "")
    assert bare.count("|") == 3  # nothing but the borders of two cells
    text, code = markdown(name), markdown_code(name)
    assert not [c for n, c in enumerate(text) if c in "<>[]`|" and text[n - 1 : n] != "\\"]
    assert code.count("`") == 2
