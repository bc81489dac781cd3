"""Tables as text: lines for a terminal, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moth_eval.text import markdown, visible

from .averages import Average
from .controlled import Difference, K
from .wording import columns, number

Table = list[list[str]]
"""Head and rows."""

_UNSAFE = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "*": "{*}",  # after the end of a row these would be its options
}  # fmt: skip


def percent(average: Average, *, sign: bool = False) -> str:
    """A fraction in percent, with its interval if it has one."""
    return with_interval(average, "+.1%" if sign else ".1%")


def with_interval(average: Average, form: str) -> str:
    """A figure in a format, with its interval if it has one; a dash where there is none."""
    if average.value is None:
        return "–"
    text = f"{average.value:{form}}"
    if average.interval is None:
        return text
    return f"{text} ({average.interval.low:{form}} to {average.interval.high:{form}})"


def seconds(average: Average) -> str:
    """A time (s), without its interval."""
    return "–" if average.value is None else f"{average.value:.1f}"


def difference_table(rows: Iterable[tuple[str, str, Difference[K], str]]) -> Table:
    """Head and rows of methods held against a control.

    Args:
        rows: method, figure, the comparison, and its difference as text.
    """
    table = [["method", "figure", "models", "difference", "p", "p (corrected)"]]
    table += [
        [
            method, figure, str(one.found.models), difference, number(one.found.p_value, 2),
            number(one.p_corrected, 2),
        ]
        for method, figure, one, difference in rows
    ]  # fmt: skip
    return table


def as_lines(table: Table) -> list[str]:
    """Aligned columns, without colour or control characters."""
    return list(columns([[visible(cell) for cell in row] for row in table]))


def as_markdown(table: Table) -> str:
    """A table of Markdown that shows its cells literally."""
    head, *rows = [[markdown(cell) for cell in row] for row in table]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def as_list(texts: Sequence[str]) -> str:
    """A list of Markdown that shows its items literally."""
    return "\n".join(f"* {markdown(text.strip())}" for text in texts)


def as_latex(table: Table) -> str:
    """A `tabular` of LaTeX, the first column to the left, the others to the right."""
    head, *rows = [[_escaped(cell) for cell in row] for row in table]
    body = [rf"{' & '.join(row)} \\" for row in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\hline",
            rf"{' & '.join(head)} \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
        ]
    )


def latex_comment(text: str) -> str:
    """The text as one line that LaTeX leaves out."""
    return f"% {' '.join(visible(text).split())}"


def _escaped(text: str) -> str:
    safe = "".join(_UNSAFE.get(letter, letter) for letter in visible(text))
    return safe.replace("–", "--")
