"""The commands and their options. What each command does is in the module of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import __version__
from ..params import TEMPERATURE
from ..views.numbers import Number, label
from ..views.parameters import EDITS, NEXT_EDITS, SWEPT
from . import options
from .options import AsJson, Chat, Model, Prompt, System, Temperature, with_filters

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fused-sampler {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Generate text with the fused sampler, or look at what it would draw from."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@with_filters(EDITS)
def generate(
    prompt: Prompt,
    model: Model = None,
    chat: Chat = False,
    system: System = None,
    temperature: Temperature = TEMPERATURE.off,
    *,
    filters: dict[str, Any],
    edits: dict[str, Any],
    seed: Annotated[
        int | None,
        options.seed(
            "The same seed draws the same text. Without it: a new one each run, shown at the end.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, options.number(Number(1), "Stop after this many tokens.")] = 64,
    num_samples: Annotated[
        int,
        options.number(
            Number(1), "Texts to generate, one after the other, each with the next seed."
        ),
    ] = 1,
    stop: Annotated[
        list[str] | None,
        options.text("End the text where this appears; it is shown too. May be repeated."),
    ] = None,
) -> None:
    """Continue a text, shown as it is generated.

    The text goes to standard output, and a line with the speed, the share of time spent sampling
    and the seed to standard error, so that redirecting the output to a file keeps the text alone.
    What the model's own generation config sets beside these options, such as suppressed tokens,
    applies, and is named there too.
    """
    from .generate import run_generate

    request = options.request_of(prompt, model, temperature, filters, edits, seed, chat, system)
    run_generate(request, stop or [], max_new_tokens, num_samples)


@app.command()
@with_filters(NEXT_EDITS)
def inspect(
    prompt: Prompt,
    model: Model = None,
    chat: Chat = False,
    system: System = None,
    temperature: Temperature = TEMPERATURE.off,
    *,
    filters: dict[str, Any],
    edits: dict[str, Any],
    seed: Annotated[
        int | None,
        options.seed(
            "Mark the token that this seed draws: the first that `generate` would give.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, options.number(Number(1), "Show this many of the best tokens.")] = 20,
    top_logprobs: Annotated[
        int,
        options.number(
            Number(0),
            "Show log-probabilities too, of so many most probable tokens: among the kept ones, and "
            "as the model itself says.",
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show the next-token table: what each filter keeps and what a seed draws.

    Probabilities are after the temperature and before the filters. Logits are those that `generate`
    draws from: after what the model's own generation config, penalties and bias do to them. Where
    these options move one, the table says from where.
    """
    from .inspect import run_inspect

    request = options.request_of(prompt, model, temperature, filters, edits, seed, chat, system)
    run_inspect(request, top, top_logprobs, as_json)


@app.command()
@with_filters(EDITS)
def explore(
    prompt: Prompt = "The sky is",
    model: Model = None,
    chat: Chat = False,
    system: System = None,
    temperature: Temperature = TEMPERATURE.off,
    *,
    filters: dict[str, Any],
    edits: dict[str, Any],
    seed: Annotated[
        int,
        options.seed("The seed that the page starts with; the same draws the same."),
    ] = 0,
    port: Annotated[
        int,
        options.number(
            Number(0, 65535),
            "Where to serve the page on this machine; 0 is any port that is free.",
            "PORT",
        ),
    ] = 0,
    browser: Annotated[
        bool, typer.Option(help="Open the page, where there is a display to open it on.")
    ] = True,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the page to this file instead, for temperatures computed beforehand.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open a page that shows how the next token is chosen: logits, filters, and the draw.

    The page is served to this machine alone until Ctrl-C.
    """
    from .explore import run_explore, run_export

    request = options.request_of(prompt, model, temperature, filters, edits, seed, chat, system)
    if export is None:
        run_explore(request, port, browser)
    else:
        run_export(request, export)


@app.command(cls=options.SeveralTemperatures)
@with_filters(NEXT_EDITS)
def plot(
    prompt: Prompt,
    model: Model = None,
    chat: Chat = False,
    system: System = None,
    temperature: Annotated[
        list[float],
        options.parameter(
            TEMPERATURE,
            "One or more, as in `--temperature 0.5 1 2`: a colour for each. A prompt that is "
            "a number goes in front.",
            "NUMBER...",
        ),
    ] = [TEMPERATURE.off],  # noqa: B006  # typer copies it
    *,
    filters: dict[str, Any],
    edits: dict[str, Any],
    sweep: Annotated[
        str | None,
        options.choice(
            [label(record.name) for record in SWEPT],
            "Instead, show kept tokens and entropy against this parameter",
        ),
    ] = None,
    top: Annotated[
        int,
        options.number(Number(1, 60), "Show this many of the best tokens."),
    ] = 12,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write: a name in .png, .svg or .pdf. Without it: a PNG in this folder, "
            "named after the prompt. A file that exists is overwritten.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw a figure of the next token, for papers and slides.

    Three panels side by side: logits, logits / T and probabilities of the best tokens. What the
    filters drop is grey and hatched; probabilities are after the temperature and before the
    filters.
    """
    from .plot import run_plot

    requests = [
        options.request_of(prompt, model, value, filters, edits, None, chat, system)
        for value in sorted(set(temperature))
    ]
    run_plot(requests, top, sweep and sweep.replace("-", "_"), out)


def _several(metavar: str, help: str) -> Any:
    """An option that may be repeated, and whose values may stand between commas."""
    return typer.Option(metavar=metavar, help=help, show_default=False)


@app.command()
def bench(
    case: Annotated[
        list[str] | None,
        _several("NAMES", 'Cases, such as `greedy` or `"top-k 50 + top-p 0.9"`.'),
    ] = None,
    vocab: Annotated[list[str] | None, _several("SIZES", "Vocabulary sizes.")] = None,
    batch: Annotated[list[str] | None, _several("SIZES", "Batch sizes, such as 1,8,64.")] = None,
    dtype: Annotated[list[str] | None, _several("NAMES", "fp32, bf16, fp16.")] = None,
    logits: Annotated[
        list[str] | None,
        _several("NAMES", 'random, real (of the embedded model), `"all equal"`.'),
    ] = None,
    peers: Annotated[
        list[str] | None,
        _several("NAMES", "Compare with these only, such as hugging-face,llama.cpp."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where; auto is the GPU if there is one.")
    ] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A look, in less than a minute.")] = False,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the results are written.")
    ] = Path("bench-results"),
) -> None:
    """Time the sampler beside its peers, each kept set checked first.

    Without options a choice of cells that takes minutes. Cases, sizes, dtypes and logits asked for
    are all crossed; those not asked for stay at all cases, V = 128,256, B = 1, 8, 64, fp32, random.

    Results are written as CSV, JSON, Markdown and pictures. Ctrl-C keeps what was measured.
    """
    from .bench import run_bench

    run_bench(logits, case, vocab, batch, dtype, peers, device, quick, out)


@app.command()
def info(as_json: AsJson = False) -> None:
    """Show versions, devices, the backend that "auto" takes and why, and the embedded model."""
    from .info import run_info

    run_info(as_json)
