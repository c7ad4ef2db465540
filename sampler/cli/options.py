"""What the commands' options share: numbers, the filters, several values after one option."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..views.numbers import SEED, Number
from ..views.request import FieldError, Request
from ..views.settings import FILTERS, TEMPERATURE

WHOLE = Number(int, 1)


def number(wanted: Number, help: str, metavar: str | None = None, **more: Any) -> Any:
    """An option that takes a number."""
    metavar = metavar or ("COUNT" if wanted.kind is int else "NUMBER")
    return typer.Option(metavar=metavar, parser=_parser(wanted), help=help, **more)


def sampling(wanted: Number, help: str, metavar: str | None = None, **more: Any) -> Any:
    """A number that says what to draw from."""
    return number(wanted, help, metavar, rich_help_panel="Sampling", **more)


def _parser(wanted: Number) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:  # text, or the option's default
        try:
            return wanted.read(str(value))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


def choice(names: Sequence[str], help: str) -> Any:
    """An option that takes one of `names`, and has no default."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, names))}")
        return text

    return typer.Option(metavar="|".join(names), parser=parse, help=help, show_default=False)


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
Temperature = Annotated[float, sampling(TEMPERATURE.number, TEMPERATURE.help)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def seed(help: str, **more: Any) -> Any:
    """The option `--seed`."""
    return sampling(SEED, help, "SEED", **more)


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each filter, in place of its argument `filters`, a dict."""
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += _filter_parameters() if parameter.name == "filters" else [parameter]

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        filters = {filter.name: given.pop(filter.name) for filter in FILTERS}
        command(**given, filters=filters)

    # typer reads the options off the signature, and the annotations once more.
    keywords = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    expanded.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _filter_parameters() -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            filter.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=filter.off,
            annotation=Annotated[filter.number.kind, sampling(filter.number, filter.help)],
        )
        for filter in FILTERS
    ]


def request_of(
    prompt: str,
    model: str | None,
    temperature: float,
    filters: Mapping[str, Any],
    seed: int | None,
) -> Request:
    """The request; what is wrong with it is an error of the option that it came from."""
    try:
        return Request(prompt, model, {"temperature": temperature, **filters}, seed)
    except FieldError as error:
        is_option = error.field not in (None, "prompt")
        raise wrong(error.field if is_option else None, str(error)) from error


def wrong(name: str | None, message: str) -> typer.BadParameter:
    """The error that `message` is about the option `--name`, where one is to blame."""
    hint = f"'--{name.replace('_', '-')}'" if name else None
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
