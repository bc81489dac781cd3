from __future__ import annotations

from reports.text_tables import as_latex, as_markdown


def test_a_row_of_latex_does_not_end_in_what_its_neighbour_is_called() -> None:
    text = as_latex([["model", "acc"], ["a", "1"], ["[9999pt]b", "2"], ["*c", "3"]])
    rows = text.splitlines()[4:7]
    assert rows == [r"a & 1 \\", r"{[}9999pt]b & 2 \\", r"{*}c & 3 \\"]


def test_markdown_shows_entities_and_strokes_as_they_are() -> None:
    assert r"\&copy; \~\~a\~\~" in as_markdown([["model"], ["&copy; ~~a~~"]])
