from __future__ import annotations

import io

from rich.console import Console

from benchmarks.harden_progress import LINES, Stages


def shown(steps: list[tuple[str, float | None, str]], *, terminal: bool = False) -> list[str]:
    stream = io.StringIO()
    with Stages(Console(file=stream, force_terminal=terminal, width=200)) as stages:
        for step in steps:
            stages.tell(*step)
    return stream.getvalue().splitlines()


def test_many_rounds_make_few_lines_and_the_last_one_is_among_them() -> None:
    lines = shown([("training", n / 400, f"round {n}") for n in range(1, 401)])
    assert len(lines) == LINES + 1
    assert lines[0] == "training: round 1"
    assert lines[-1] == "training: round 400  [100 %, 0 s left]"


def test_a_few_rounds_make_a_line_each() -> None:
    lines = shown([("training", n / 3, f"round {n}") for n in range(1, 4)])
    assert [line.partition("  ")[0] for line in lines] == [
        "training: round 1", "training: round 2", "training: round 3",
    ]  # fmt: skip


def test_a_method_of_unknown_length_makes_a_line_every_ten_rounds() -> None:
    lines = shown([("training", None, f"round {n}") for n in range(1, 26)])
    assert lines == ["training: round 1", "training: round 11", "training: round 21"]


def test_the_next_stage_starts_over() -> None:
    steps = [("a", 0.5, "x"), ("a", 1.0, "y"), ("b", 0.01, "z"), ("b", 0.5, "w")]
    assert [line[:4] for line in shown(steps)] == ["a: x", "a: y", "b: z", "b: w"]


def test_a_terminal_gets_a_bar_with_an_eta() -> None:
    text = "\n".join(shown([("training", 0.25, "one"), ("training", 0.5, "two")], terminal=True))
    assert "ETA" in text
    assert "50%" in text
    assert "s left" not in text
