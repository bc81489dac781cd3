"""A study as a TOML file: which commands, with which options, in which order.

The fields are made from the commands themselves, so a file knows every option that the command line
knows, and no other.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from moth_eval.errors import InputError

from .image_sources import ImagesType

STUDY_COMMANDS = (
    "generate", "calibrate", "scan", "trojai", "distance", "harden", "hardening", "removal",
    "false-positives", "honesty",
)  # fmt: skip
"""Commands that a study may consist of."""

COUNTED = ("removal", "--seeds")
"""The option of a command of which a single number says how many there are."""

LARGEST = 1 << 20


class Method(BaseModel):
    """A scanner or hardener with parameters: its name, and any of its fields beside that.

    Fields of an inner part are a table of their own: `recipe = { flip = true }`.
    """

    model_config = ConfigDict(extra="allow")
    name: str

    def spec(self) -> str:
        """As the command line writes it: `NAME:field=value,inner.field=value`."""
        fields = ",".join(_fields("", self.model_extra or {}))
        return f"{self.name}:{fields}" if fields else self.name


def _fields(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _fields(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}={_word(value)}"


Text = Annotated[
    str | int | float | Method | list[str | int | float],
    Field(description="text; a list is joined by commas; a table is a method with its fields"),
]
Texts = Annotated[
    list[str | Method] | str | Method, Field(description="one or several, each text or a table")
]


def study_model() -> type[BaseModel]:
    """What a study file has to look like; its JSON Schema is that of the file."""
    from moth_eval.cli import load_command

    fields: dict[str, Any] = {
        word.replace("-", "_"): (options_model(load_command(word)) | None, Field(None, alias=word))
        for word in STUDY_COMMANDS
    }
    return create_model(
        "Study",
        __config__=ConfigDict(extra="forbid", title="moth-eval study", frozen=True),
        __doc__="Commands of moth-eval with their options, carried out in the order of the file.",
        **fields,
    )


def options_model(command: click.Command) -> type[BaseModel]:
    """The options and arguments of a command as fields, named as on the command line."""
    fields: dict[str, Any] = {}
    for parameter in _parameters(command):
        kind, default = _type_of(parameter), ... if parameter.required else None
        about = parameter.help if isinstance(parameter, click.Option) else None
        if not parameter.required:
            kind = kind | None
        fields[key_of(parameter)] = (kind, Field(default, description=about))
    return create_model(
        str(command.name), __config__=ConfigDict(extra="forbid", strict=True), **fields
    )


def _parameters(command: click.Command) -> list[click.Parameter]:
    """Those that a file may give: all but `--json`, which says how a terminal is spoken to."""
    return [parameter for parameter in command.params if "--json" not in parameter.opts]


def key_of(parameter: click.Parameter) -> str:
    """What an option or argument is called in a file: `distance_pairs` for `--distance-pairs`."""
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    longest: str = max(parameter.opts, key=len)
    return longest.removeprefix("--").replace("-", "_")


def _type_of(parameter: click.Parameter) -> Any:
    kind = parameter.type
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return bool
    if parameter.multiple or parameter.nargs == -1:
        return Texts
    if isinstance(kind, click.IntRange | click.FloatRange):
        number: Any = int if isinstance(kind, click.IntRange) else float
        low = {"gt" if kind.min_open else "ge": kind.min} if kind.min is not None else {}
        high = {"lt" if kind.max_open else "le": kind.max} if kind.max is not None else {}
        limits: dict[str, Any] = {**low, **high}
        return Annotated[number, Field(**limits)]
    if isinstance(kind, click.Choice):
        return Literal[tuple(kind.choices)]
    simple: dict[str, Any] = {"integer": int, "float": float}
    return str if isinstance(kind, click.Path | ImagesType) else simple.get(kind.name, Text)


def read_study(path: Path) -> list[tuple[str, list[str]]]:
    """The commands of a study file with their command lines, in the order of the file.

    Raises:
        InputError: there is no such file, it is no TOML, or it holds something else than commands
            and their options.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: no readable study file: {error.strerror}") from error
    if len(content) > LARGEST:
        raise InputError(f"{path}: expected a study file, got more than {LARGEST:,} bytes")
    try:
        data = tomllib.loads(content.decode())
    except ValueError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    if not data:
        raise InputError(f"{path} holds no command; expected a table such as [trojai]")
    try:
        study = study_model().model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {_explained(error)}") from error
    return [(word, command_line(word, getattr(study, word.replace("-", "_")))) for word in data]


def command_line(word: str, options: BaseModel) -> list[str]:
    """The options of a command as its command line has them, without the command's name."""
    from moth_eval.cli import load_command

    line, positional = [], []
    for parameter in _parameters(load_command(word)):
        value = getattr(options, key_of(parameter))
        if value is None or value is False:
            continue
        if isinstance(parameter, click.Argument):
            several = value if parameter.nargs == -1 and isinstance(value, list) else [value]
            positional += [_word(one) for one in several]
            continue
        option = max(parameter.opts, key=len)
        if value is True:
            line.append(option)
        elif parameter.multiple:
            several = value if isinstance(value, list) else [value]
            line += [f"{option}={_word(one)}" for one in several]
        else:
            # One number there is a count, and a list of one is not.
            only = isinstance(value, list) and len(value) == 1 and (word, option) == COUNTED
            line.append(f"{option}={_word(value)}{',' * only}")
    return [*line, "--", *positional] if positional else line


def _word(value: object) -> str:
    if isinstance(value, Method):
        return value.spec()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_word(one) for one in value)
    return str(value)


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong, with the nearest name where one is unknown."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{place}: {first['msg']}, got {first['input']!r}"
    *above, name = first["loc"]
    known = _known(str(above[0]) if above else "")
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    return f"{place} is unknown: {hint}"


def _known(word: str) -> list[str]:
    from moth_eval.cli import load_command

    if word not in STUDY_COMMANDS:
        return list(STUDY_COMMANDS)
    return [key_of(parameter) for parameter in _parameters(load_command(word))]


def as_toml(word: str, parameters: Mapping[str, Any]) -> str:
    """The file that repeats one call of a command.

    Args:
        word: the command.
        parameters: values by the command's own names, as click parsed them.
    """
    given = _given(word, parameters)
    return "".join([f"[{word}]\n", *(f"{key} = {_toml(value)}\n" for key, value in given.items())])


def _given(word: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are not the defaults, by the names of a study file and of the kinds it has."""
    from moth_eval.cli import load_command

    found = {}
    for parameter in _parameters(load_command(word)):
        value = parameters.get(str(parameter.name))
        default = parameter.to_info_dict().get("default")
        unset = value is None or value is False or value in ("", ())
        if unset or (value == default and not parameter.required):
            continue
        found[key_of(parameter)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def options_of_call(call: Sequence[str]) -> dict[str, Any]:
    """The options of a call by the names of a study file, as far as they are not the defaults.

    Args:
        call: the command line, the program's name first.

    Raises:
        InputError: it is not a call of a command that study files know.
    """
    return _given(*_parsed(call))


def line_of_options(word: str, options: Mapping[str, Any]) -> list[str]:
    """The command line of a command with these options, named as in a study file.

    Raises:
        InputError: they are not options of this command.
    """
    from moth_eval.cli import load_command

    try:
        values = options_model(load_command(word)).model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place} is no option of moth-eval {word}: {first['msg']}") from error
    return command_line(word, values)


def repeated(call: Sequence[str]) -> str:
    """The study file that repeats a call, such as a run's manifest keeps.

    Args:
        call: the command line, the program's name first.

    Raises:
        InputError: it is not a call of a command that study files know.
    """
    return as_toml(*_parsed(call))


def _parsed(call: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command of a call, and its parameters by click's names."""
    from moth_eval.cli import load_command

    word, line = (call[1], list(call[2:])) if len(call) > 1 else ("", [])
    if word not in STUDY_COMMANDS:
        raise InputError(
            f"expected a call of one of {', '.join(STUDY_COMMANDS)}, got {' '.join(call)!r}"
        )
    try:
        context = load_command(word).make_context(word, line)
    except click.ClickException as error:
        raise InputError(
            f"{' '.join(call)!r} is no call of today's commands: {error.format_message()}"
        ) from error
    except click.exceptions.Exit as error:  # of a call for help
        raise InputError(f"{' '.join(call)!r} carries nothing out") from error
    return word, context.params


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """A basic string of TOML; characters that cannot be seen are spelled out."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
