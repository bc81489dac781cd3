from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harden_card import _table, card_text, summary_lines
from moth_eval.hardening_records import HardeningCard
from moth_eval.text import markdown, markdown_code
from tests.support.hardening_runs import card


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


def changed(made: HardeningCard, **parts: dict[str, Any]) -> HardeningCard:
    """The card with other values in its parts; `data` is a part of its run."""
    data = made.run.data.model_copy(update=parts.pop("data", {}))
    made = made.model_copy(update={"run": made.run.model_copy(update={"data": data})})
    return made.model_copy(
        update={name: getattr(made, name).model_copy(update=v) for name, v in parts.items()}
    )


def test_test_images_that_were_trained_on_are_not_said_to_be_new() -> None:
    made = card("m", "moth", 0)
    assert "held out of the data and never trained on |" in card_text(made)
    held = card_text(changed(made, data={"in_both": 3}))
    assert "| tested on | 10 images, 0.2 of each class, held out of the data; 3 of them" in held
    given = card_text(changed(made, data={"in_both": 3, "held_out": None, "test": "/x.npz"}))
    assert "| tested on | 10 images, 3 of them trained on as well: `/x.npz` |" in given
    assert "never" not in held + given


def test_a_remark_on_a_model_that_came_out_is_told_on_the_page_and_in_the_terminal() -> None:
    made = card("m", "clp", 0, reason="no channel stands out; nothing was pruned")
    assert "\n\nNote: no channel stands out; nothing was pruned\n\n" in card_text(made)
    assert "note: no channel stands out; nothing was pruned" in summary_lines(made)
    assert "Note:" not in card_text(card("m", "clp", 0))


@pytest.mark.parametrize(
    ("status", "title"),
    [("failed", "not hardened, as it failed: moth"), ("inapplicable", "not hardened by moth")],
)
def test_a_card_without_a_model_does_not_say_hardened(status: str, title: str) -> None:
    page = card_text(card("m", "moth", 0, status=status, reason="no *luck*"))
    assert page.startswith(f"# m, {title}\n\n**{status}**: no \\*luck\\*\n")
    assert "| given to the method | 25 of 60 images" in page
    assert "| trained on |" not in page


def test_a_method_that_looks_at_no_image_is_not_said_to_be_trained() -> None:
    made = changed(card("m", "clp", 0), training={"images_used": 0}, data={"in_both": 3})
    page = card_text(made)
    assert "| given to the method | 25 of 60 images" in page
    assert "3 of them given to the method as well |" in page


def test_distances_of_0_before_are_said_to_be_that_and_failed_pairs_are_listed() -> None:
    zero = {"mean_before": 0.0, "increase": None, "failed_after": [(1, 0)]}
    made = changed(card("m", "moth", 0), distance=zero)
    page, lines = card_text(made), summary_lines(made)
    assert "No pair has a distance above 0 before and one after, so there is no increase." in page
    assert "Without a trigger after: 1 to 0." in page
    assert lines[2].endswith("; no pair has a distance above 0 before and one after")


def test_reasons_and_notes_act_neither_on_the_page_nor_on_the_terminal() -> None:
    made = card("m", "moth", 0, reason="\x1b[2J <b>", notes=("\x1b[31m `x`",))
    assert "\x1b" not in card_text(made) + "".join(summary_lines(made))
    assert "Note: \\\\x1b\\[2J \\<b\\>" in card_text(made)
    assert summary_lines(made)[-2:] == ["note: \\x1b[2J <b>", "note: \\x1b[31m `x`"]
