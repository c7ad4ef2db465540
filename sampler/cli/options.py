"""What the commands' options share: numbers, the filters, several values after one option."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..edits.records import MIN_TOKENS, NUMBERS
from ..filters import Parameter
from ..params import TEMPERATURE
from ..views.numbers import SEED, Number, label, read_bias, read_parameter
from ..views.parameters import LOGIT_BIAS, MORE, OFFERED, TRANSFORMERS
from ..views.request import FieldError, Request, check_text

# Of the options that say what to draw from.
PANEL = "Sampling"
MORE_PANEL = "More filters"
EDITS_PANEL = "Penalties and bias"
FILTERS = [record for record in OFFERED if record is not TEMPERATURE]


def number(wanted: Number, help: str, metavar: str = "COUNT", **more: Any) -> Any:
    """An option that takes a whole number."""
    return typer.Option(metavar=metavar, parser=_parser(wanted.read), help=help, **more)


def text(help: str) -> Any:
    """An option that takes text, and has no default."""

    def parse(text: str) -> str:
        try:
            check_text("text", text)
        except FieldError as error:
            raise typer.BadParameter(_sentence(error)) from error
        if not text:
            raise typer.BadParameter("it is empty; give some text, or leave it out")
        return text

    return typer.Option(metavar="TEXT", parser=parse, help=help, show_default=False)


def parameter(record: Parameter, help: str | None = None, metavar: str | None = None) -> Any:
    """An option for a sampling parameter; one that is on or off is a flag."""
    panel = MORE_PANEL if record in MORE else PANEL
    if record.kind is bool:
        return typer.Option(f"--{label(record.name)}", help=record.help, rich_help_panel=panel)
    return typer.Option(
        metavar=metavar or ("COUNT" if record.kind is int else "NUMBER"),
        parser=_parser(functools.partial(read_parameter, record)),
        help=help or record.help,
        rich_help_panel=panel,
    )


def _edit(record: Parameter) -> Any:
    """An option for a number among the edits."""
    return typer.Option(
        metavar="COUNT" if record.kind is int else "NUMBER",
        parser=_parser(functools.partial(read_parameter, record)),
        help=_EDIT_HELP.get(record, record.help),
        show_default="the model's own" if record.name in TRANSFORMERS else True,
        rich_help_panel=EDITS_PANEL,
    )


# Where the record names what the command finds by itself.
_EDIT_HELP = {MIN_TOKENS: "Bans the model's end tokens while fewer tokens are generated."}
_BIAS = typer.Option(
    metavar="ID=VALUE",
    help="Is added to the logit of the token of this id; -inf bans it. May be repeated.",
    show_default=False,
    rich_help_panel=EDITS_PANEL,
)


def _parser(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:  # text, or the option's default
        try:
            return read(str(value))
        except ValueError as error:
            raise typer.BadParameter(_sentence(error)) from error

    return parse


def _sentence(error: ValueError) -> str:
    """Without its full stop: something follows on the line."""
    return str(error).removesuffix(".")


def choice(names: Sequence[str], help: str) -> Any:
    """An option that takes one of `names`, and has no default."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, names))}")
        return text

    help = f"{help}: {', '.join(names)}."
    return typer.Option(metavar="NAME", parser=parse, help=help, show_default=False)


Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A folder or a Hugging Face hub id. Without it: the embedded SmolLM2-135M-Instruct, "
        "which needs no network.",
        show_default=False,
    ),
]
Temperature = Annotated[float, parameter(TEMPERATURE)]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat", help="Take the prompt as a user's message, in the model's chat template."
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="With --chat: the system message before it. Without it: what the template says.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def seed(help: str, **more: Any) -> Any:
    """The option `--seed`."""
    return number(SEED, help, "SEED", rich_help_panel=PANEL, **more)


def with_filters(edits: Sequence[Parameter]) -> Callable[..., Callable[..., None]]:
    """Gives a command an option for each filter, and for each of `edits` and the bias.

    They stand in place of its arguments `filters` and `edits`, which are dicts.
    """
    groups = {"filters": _filter_parameters(), "edits": _edit_parameters(edits)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for one in signature.parameters.values():
            parameters += groups.get(one.name, [one])

        @functools.wraps(command)
        def expanded(**given: Any) -> None:
            dicts = {
                group: {one.name: given.pop(one.name) for one in own}
                for group, own in groups.items()
            }
            command(**given, **dicts)

        # typer reads the options off the signature, and the annotations once more.
        keywords = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]
        expanded.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
        expanded.__annotations__ = {one.name: one.annotation for one in parameters}
        return expanded

    return decorate


def _filter_parameters() -> list[inspect.Parameter]:
    return [_keyword(one.name, one.off, Annotated[one.kind, parameter(one)]) for one in FILTERS]


def _edit_parameters(edits: Sequence[Parameter]) -> list[inspect.Parameter]:
    numbers = [
        _keyword(
            one.name,
            None if one.name in TRANSFORMERS else one.off,
            Annotated[one.kind | None, _edit(one)],
        )
        for one in edits
    ]
    return [*numbers, _keyword(LOGIT_BIAS, None, Annotated[list[str] | None, _BIAS])]


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def request_of(
    prompt: str,
    model: str | None,
    temperature: float,
    filters: Mapping[str, Any],
    edits: Mapping[str, Any],
    seed: int | None,
    chat: bool,
    system: str | None,
) -> Request:
    """The request; what is wrong with it is an error of the option that it came from."""
    try:
        sampling = {"temperature": temperature, **filters}
        numbers = {name: value for name, value in edits.items() if name != LOGIT_BIAS}
        given = _given(numbers, edits[LOGIT_BIAS])
        return Request(prompt, model, sampling, seed, chat, system, given)
    except FieldError as error:
        is_option = error.field not in (None, "prompt")
        raise wrong(error.field if is_option else None, _sentence(error)) from error


def _given(edits: Mapping[str, Any], biases: Sequence[str] | None) -> dict[str, Any]:
    """Without those that are off, or were left out for the model's own."""
    given = {
        name: value
        for name, value in edits.items()
        if value is not None and (name in TRANSFORMERS or value != NUMBERS[name].off)
    }
    if biases:
        given[LOGIT_BIAS] = read_bias(", ".join(biases))
    return given


def wrong(name: str | None, message: str) -> typer.BadParameter:
    """The error that `message` is about the option `--name`, where one is to blame."""
    hint = f"'--{label(name)}'" if name else None
    return typer.BadParameter(message, param_hint=hint)


class SeveralTemperatures(TyperCommand):
    """A command that takes `--temperature 0.5 1 2`; the values end where a word is no number.

    typer by itself reads several values only if the option is repeated.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat_option(args)))


_SEVERAL = "--temperature"


def _repeat_option(arguments: Sequence[str]) -> Iterator[str]:
    """`--temperature 0.5 1 2` as `--temperature 0.5 --temperature 1 --temperature 2`."""
    listing, before = False, ""  # whether values may follow; the word before
    for argument in arguments:
        if listing and before != _SEVERAL:  # the first value stands behind the option already
            listing = _is_number(argument)
            if listing:
                yield _SEVERAL
        yield argument
        listing = listing or argument == _SEVERAL or argument.startswith(f"{_SEVERAL}=")
        before = argument


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
