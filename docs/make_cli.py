"""Writes `docs/cli.md`: the help text of every command, as the terminal shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moth_eval.cli import COMMANDS, load_command, main

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 88
"""Columns of the terminal that the page imitates."""

HEAD = """\
# Help texts

Made by `python docs/make_cli.py`; a test compares this page with the commands. Each command has a
page that explains it: {pages}.
"""


def cli_page() -> str:
    """The whole page, as Markdown."""
    front = click.Context(
        main, info_name="moth-eval", terminal_width=WIDTH, **main.context_settings
    )
    pages = ",\n".join(f"[{word}]({word}.md)" for word in COMMANDS)
    parts = [HEAD.format(pages=pages), _section("moth-eval", main.get_help(front))]
    for word in COMMANDS:
        command = load_command(word)
        context = click.Context(command, parent=front, info_name=word, terminal_width=WIDTH)
        parts.append(_section(f"moth-eval {word}", command.get_help(context)))
        for inner, one in command.commands.items() if isinstance(command, click.Group) else ():
            below = click.Context(one, parent=context, info_name=inner, terminal_width=WIDTH)
            parts.append(_section(f"moth-eval {word} {inner}", one.get_help(below)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    place.write_text(cli_page(), encoding="utf-8")
