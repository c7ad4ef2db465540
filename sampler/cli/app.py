"""The commands and their options. What each command does is in the module of its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .temperatures import SeveralTemperatures

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _number(kind: type, wanted: str, low: float, high: float = inf) -> Callable[[str], Any]:
    """A parser for an option; what it refuses is named with the value and what is wanted."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = nan
        if low <= value <= high and value != inf:
            return value
        raise typer.BadParameter(f"{text!r} is not {wanted}")

    return parse


_share = _number(float, "a number from 0 to 1", 0, 1)
_count = _number(int, "a whole number from 1 up", 1)
_seed = _number(int, f"a whole number from 0 to {2**63 - 1}", 0, 2**63 - 1)


def _sampling(metavar: str, parser: Callable[[str], Any], help: str, **more: Any) -> Any:
    """An option that says what to draw from."""
    return typer.Option(
        metavar=metavar, parser=parser, help=help, rich_help_panel="Sampling", **more
    )


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
Temperature = Annotated[
    float,
    _sampling(
        "NUMBER",
        _number(float, "a finite number from 0 up", 0),
        "Divides the logits; 0 is greedy, 1 is off.",
    ),
]
TopK = Annotated[
    int,
    _sampling(
        "COUNT",
        _number(int, "a whole number from 0 up", 0),
        "Keep the k best tokens, and ties; 0 is off.",
    ),
]
TopP = Annotated[
    float,
    _sampling(
        "NUMBER",
        _share,
        "Keep the best tokens that hold this share of the probability; 1 is off.",
    ),
]
MinP = Annotated[
    float,
    _sampling(
        "NUMBER",
        _share,
        "Keep tokens at least this many times as probable as the best; 0 is off.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fused-sampler {version('fused-sampler')}")
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
def generate(
    prompt: Prompt,
    model: Model = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Annotated[
        int | None,
        _sampling(
            "SEED",
            _seed,
            "The same seed draws the same text. Without it: a new one each run, shown at the end.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="COUNT", parser=_count, help="Stop after this many tokens.")
    ] = 64,
    num_samples: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            parser=_count,
            help="Texts to generate, one after the other, each with the next seed.",
        ),
    ] = 1,
) -> None:
    """Continue a text, shown as it is generated.

    The text goes to standard output, and a line with the speed, the share of time spent sampling
    and the seed to standard error, so that redirecting the output to a file keeps the text alone.
    Settings of the model itself that have no option here, such as a repetition penalty, stay on.
    """
    from ..views.request import Request
    from .generate import run_generate

    request = Request(prompt, model, temperature, top_k, top_p, min_p, seed)
    run_generate(request, max_new_tokens, num_samples)


@app.command()
def inspect(
    prompt: Prompt,
    model: Model = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Annotated[
        int | None,
        _sampling(
            "SEED",
            _seed,
            "Mark the token that this seed draws: the first that `generate` would give.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="COUNT", parser=_count, help="Show this many of the best tokens.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the next-token table: what each filter keeps and what a seed draws.

    Probabilities are after the temperature and before the filters.
    """
    from ..views.request import Request
    from .inspect import run_inspect

    request = Request(prompt, model, temperature, top_k, top_p, min_p, seed)
    run_inspect(request, top, as_json)


@app.command()
def explore(
    prompt: Prompt = "The sky is",
    model: Model = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Annotated[
        int,
        _sampling("SEED", _seed, "The seed that the page starts with; the same draws the same."),
    ] = 0,
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            parser=_number(int, "a port from 0 to 65535", 0, 65535),
            help="Where to serve the page on this machine; 0 is any port that is free.",
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
    from ..views.request import Request
    from .explore import run_explore, run_export

    request = Request(prompt, model, temperature, top_k, top_p, min_p, seed)
    if export is None:
        run_explore(request, port, browser)
    else:
        run_export(request, export)


@app.command(cls=SeveralTemperatures)
def plot(
    prompt: Prompt,
    model: Model = None,
    temperature: Annotated[
        list[float],
        _sampling(
            "NUMBER...",
            _number(float, "a finite number from 0 up", 0),
            "One or more, as in `--temperature 0.5 1 2`: a colour for each. A prompt that is "
            "a number goes in front.",
        ),
    ] = [1.0],  # noqa: B006  # typer copies it
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    sweep: Annotated[
        Literal["temperature", "top-k", "top-p", "min-p"] | None,
        typer.Option(
            help="Instead, show kept tokens and entropy against this parameter.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            parser=_number(int, "a whole number from 1 to 60", 1, 60),
            help="Show this many of the best tokens.",
        ),
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
    from ..views.request import Request
    from .plot import run_plot

    requests = [
        Request(prompt, model, value, top_k, top_p, min_p, seed=None)
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
