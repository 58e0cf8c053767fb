"""The verbs at a shell. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Any

import click

import ssl_domains
from ssl_domains.core.errors import RecipeError, UserError

_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
_PLUGIN = click.option(
    "--plugin", multiple=True, metavar="FILE", help="Your own file with registered classes."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(ssl_domains.__version__, prog_name="ssl-domains")
def cli() -> None:
    """Self-supervised learning from your own files: pretrain, evaluate, embed.

    \b
    ssl-domains quickstart
    ssl-domains inspect my.csv
    ssl-domains pretrain tabular/t_jepa data.source=my.csv data.label=price

    Exit codes: 0 done, 2 bad input (one sentence for each error), 130 interrupted (saved), 1 a bug.
    """


@cli.command()
@click.argument("recipe")
@_OVERRIDES
@click.option("--resume", is_flag=True, help="Continue run=DIR (or RECIPE, when it is a run directory).")
@click.option("--check", is_flag=True, help="Exit with 2 when the recipe's `expect` is not met.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@_PLUGIN
def pretrain(
    recipe: str, overrides: tuple[str, ...], resume: bool, check: bool, quiet: bool, plugin: tuple[str, ...]
) -> None:
    """Pretrain by a recipe, then evaluate and write the report.

    Overrides are section.key=value; run=DIR is the run directory (default runs/<recipe>-<time>).
    """
    from ssl_domains import api, render
    from ssl_domains.trainer.distributed import is_main

    run, rest = _take(overrides, "run")
    result = api.pretrain(recipe, *rest, run=run, resume=resume, plugin=plugin, progress=not quiet)
    if is_main():
        render.run(result)
    if check and result.missed:
        raise UserError("expect is not met: " + "; ".join(result.missed))


@cli.command()
@click.argument("run")
@_OVERRIDES
@click.option("--steps", type=click.IntRange(min=1), required=True, help="Steps beyond the checkpoint.")
@click.option("--anneal", is_flag=True, help="Anneal the infinite learning rate over these steps.")
@click.option("--from-step", type=int, help="The checkpoint of this step (default: the newest).")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@_PLUGIN
def fork(
    run: str,
    overrides: tuple[str, ...],
    steps: int,
    anneal: bool,
    from_step: int | None,
    quiet: bool,
    plugin: tuple[str, ...],
) -> None:
    """Begin a new run from a run's checkpoint: anneal it, or go on; RUN itself stays as it is.

    Overrides are section.key=value; run=DIR is the new run directory.
    """
    from ssl_domains import api, render

    out, rest = _take(overrides, "run")
    render.run(
        api.fork(
            run,
            *rest,
            steps=steps,
            anneal=anneal,
            from_step=from_step,
            out=out,
            plugin=plugin,
            progress=not quiet,
        )
    )


@cli.command()
@click.argument("run")
@_OVERRIDES
@_PLUGIN
def evaluate(run: str, overrides: tuple[str, ...], plugin: tuple[str, ...]) -> None:
    """Measure a run's encoder again; overrides such as evaluate.seeds=5 change how."""
    from ssl_domains import api, render

    render.run(api.evaluate(run, *overrides, plugin=plugin))


@cli.command()
@click.argument("run")
@_OVERRIDES
@click.option("--data", metavar="FILE", help="Other data with labels (or data.source=... and so on).")
@click.option("--out", metavar="DIR", help="Default: <run>-on-<data>.")
@_PLUGIN
def transfer(
    run: str, overrides: tuple[str, ...], data: str | None, out: str | None, plugin: tuple[str, ...]
) -> None:
    """Measure a run's encoder on another data set, by the run's own probes."""
    from ssl_domains import render
    from ssl_domains.transfer import transfer as measure

    render.run(measure(run, data, out, plugin=plugin, **_data(overrides)))


@cli.command()
@click.argument("run")
@_OVERRIDES
@click.option("--data", metavar="FILE", help="New raw data (or data.source=..., data.nodes=... and so on).")
@click.option("--out", required=True, metavar="FILE", help="Where to write: .parquet, .csv or .npy.")
@click.option(
    "--per",
    type=click.Choice(["row", "recording"]),
    default="row",
    show_default=True,
    help="recording: one mean vector a video (of its clips) or volume (of its patches or slices).",
)
@_PLUGIN
def embed(
    run: str, overrides: tuple[str, ...], data: str | None, out: str, per: str, plugin: tuple[str, ...]
) -> None:
    """Embed new raw data with a run's encoder."""
    from ssl_domains import api

    path = api.embed(run, data, out, plugin=plugin, per=per, **_data(overrides))
    click.echo(f"embeddings: {path}")


@cli.command()
@click.argument("table")
@_OVERRIDES
@click.option(
    "--out", required=True, metavar="FILE", help="Where to write: .csv, .tsv, .parquet, .arrow, .feather."
)
@click.option(
    "--run", metavar="RUN", help="A run of tabular/table_integration (default: train one on this table)."
)
@click.option("--save-run", metavar="DIR", help="Where the run that is trained goes.")
@click.option(
    "--sets", metavar="NAME", help="How sets form: average_linkage (default), louvain, leiden, cliques ..."
)
@click.option(
    "--threshold", type=float, default=0.5, show_default=True, help="Probability above which a pair counts."
)
@click.option(
    "--resolve", default="vote", show_default=True, help="vote, neighbours, longest, first or lm:FOLDER."
)
@click.option(
    "--neighbours", type=int, default=10, show_default=True, help="Rows that a row is compared with."
)
@click.option(
    "--max-block", type=int, default=1000, show_default=True, help="Pass over n-grams that more rows share."
)
@click.option("--truth", metavar="COLUMN", help="Says which thing a row is; only used to score the result.")
@click.option("--pairs", metavar="FILE", help="Also write the compared pairs with their probabilities.")
@click.option("--conflicts", metavar="FILE", help="Also write every value that was not chosen.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_PLUGIN
def integrate(table: str, overrides: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Join the rows of a table that speak of the same thing.

    Overrides are data.key=value (id, exclude, include, max_chars, query ...) and, without --run, those of
    training.
    """
    from ssl_domains import render
    from ssl_domains.integration import integrate as join

    ours = tuple(text for text in overrides if text.startswith("data."))
    rest = [text for text in overrides if text not in ours]
    out = options.pop("out")
    render.integration(join(table, out, *rest, **options, **_data(ours), progress=not quiet))


@cli.command()
@click.argument("source", required=False)
@_OVERRIDES
@click.option("--domain", metavar="NAME", help="Default: guessed from the file's name.")
@click.option("--schema", metavar="FILE", help="Write the fitted columns of a table, for data.schema=FILE.")
def inspect(source: str | None, overrides: tuple[str, ...], domain: str | None, schema: str | None) -> None:
    """Show what is in a file, and the recipe lines that use it."""
    from ssl_domains import api, render

    if source is not None and source.startswith("data.") and "=" in source:
        overrides, source = (source, *overrides), None
    data = _data(overrides)
    domain = data.pop("domain", domain)  # as a recipe's key, which messages name
    found, lines = api.inspect(data.pop("source", source), domain=domain, schema_out=schema, **data)
    render.inspection(found, lines)


@cli.command()
@click.argument("source", required=False)
@_OVERRIDES
@click.option("--out", default="kept.parquet", show_default=True, metavar="FILE", help=".parquet or .csv.")
@click.option("--encoder", metavar="RUN", help="Compare embeddings of this run (default: perceptual hashes).")
@click.option("--threshold", type=float, help="Least cosine (with --encoder), or most differing bits of 63.")
@click.option(
    "--within",
    metavar="RULE",
    help="Compare within recordings only: dhash, phash, mutual_information, raw, every, embedding.",
)
@click.option("--keep-leaks", is_flag=True, help="Keep rows that are nearly a validation or test row.")
@click.option("--domain", metavar="NAME", help="Default: guessed from the file's name.")
def curate(
    source: str | None,
    overrides: tuple[str, ...],
    out: str,
    encoder: str | None,
    threshold: float | None,
    within: str | None,
    keep_leaks: bool,
    domain: str | None,
) -> None:
    """Find near-duplicates and write which rows to train on (train.rows=FILE in a recipe)."""
    from ssl_domains import preparing, render

    if source is not None and source.startswith("data.") and "=" in source:
        overrides, source = (source, *overrides), None
    data = _data(overrides)
    found = preparing.curate(
        data.pop("source", source),
        out,
        encoder=encoder,
        threshold=threshold,
        held_out=not keep_leaks,
        within=within,
        domain=domain,
        **data,
    )
    render.curation(found)


@cli.command()
@click.argument("recipe")
@_OVERRIDES
@_PLUGIN
def profile(recipe: str, overrides: tuple[str, ...], plugin: tuple[str, ...]) -> None:
    """Show where a step's time goes, and which setting to change."""
    from ssl_domains import api, render

    render.profile(api.profile(recipe, *overrides, plugin=plugin))


@cli.command()
@click.argument("run")
def report(run: str) -> None:
    """Write a run's report.html and card.md again."""
    from ssl_domains import api

    click.echo(f"report: {api.report(run)}")


@cli.command(name="list")
@click.argument("kind", required=False, metavar="[domains|methods|objectives|recipes|...]")
@_PLUGIN
def list_(kind: str | None, plugin: tuple[str, ...]) -> None:
    """List domains, methods, objectives and recipes: what works here."""
    from ssl_domains import api, render

    render.listing(api.list_names(kind, plugin=plugin))


@cli.command()
@click.argument("recipe")
@_OVERRIDES
@_PLUGIN
def show(recipe: str, overrides: tuple[str, ...], plugin: tuple[str, ...]) -> None:
    """Show a recipe resolved: every value, and where it was set."""
    from ssl_domains import api, render

    render.resolved(api.show(recipe, *overrides, plugin=plugin))


@cli.command()
@click.argument("recipe")
@click.argument("target", required=False)
def copy(recipe: str, target: str | None) -> None:
    """Copy a recipe to edit it."""
    from ssl_domains.recipe.listing import copy_recipe

    click.echo(f"recipe: {copy_recipe(recipe, target)}")


@cli.command()
@click.argument("a")
@click.argument("b")
@_PLUGIN
def diff(a: str, b: str, plugin: tuple[str, ...]) -> None:
    """Show the values in which two recipes (or runs) differ."""
    from ssl_domains import api, render

    render.differences(a, b, api.diff(a, b, plugin=plugin))


@cli.command()
@click.argument("run")
@click.option("--out", metavar="DIR", help="Default: <run>-encoder.")
def export(run: str, out: str | None) -> None:
    """Copy a run's encoder (weights, config, fitted preprocessing) into a folder of its own."""
    from ssl_domains.encoders import export as write

    path = write(run, out)
    click.echo(f"encoder: {path}\n\nimport ssl_domains\nencoder = ssl_domains.load({str(path)!r})")
    click.echo("vectors = encoder.embed('new data')  # [n, D] float32")


@cli.command()
def doctor() -> None:
    """Check Python, torch, each domain's packages, disk and threads."""
    from ssl_domains import render
    from ssl_domains.checks import doctor as run_checks

    render.checks(run_checks())


@cli.command()
@click.option(
    "--out", default="runs/quickstart", show_default=True, metavar="DIR", help="Where the two runs go."
)
def quickstart(out: str) -> None:
    """Pretrain on a real table and a real graph in a few minutes; needs no network."""
    from ssl_domains._quickstart import quickstart as start

    start(out)


def _take(overrides: tuple[str, ...], key: str) -> tuple[str | None, list[str]]:
    """The value of ``key=value`` and the other overrides."""
    found = [text.split("=", 1)[1] for text in overrides if text.startswith(f"{key}=")]
    return (found[-1] if found else None), [text for text in overrides if not text.startswith(f"{key}=")]


def _data(overrides: tuple[str, ...]) -> dict[str, Any]:
    """``data.key=value`` (or ``key=value``) overrides as keyword arguments."""
    from ssl_domains.recipe.loading import parse_value

    values = {}
    for text in overrides:
        key, sign, value = text.removeprefix("data.").partition("=")
        if not sign or not key.isidentifier():
            raise UserError(f"{text!r}: expected data.key=value, for example data.source=new.csv")
        values[key] = parse_value(value)
    return values


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code (0, 1, 2 or 130)."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=FutureWarning, module="torch"
        )  # of libraries, about each other
        warnings.showwarning = _warn
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    """The command, and what its errors become."""
    try:
        cli.main(args=arguments, prog_name="ssl-domains", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except RecipeError as error:
        return _sentences(error.problems)
    except UserError as error:
        return _sentences([str(error)])
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo(str(stop.__cause__ or stop) or "interrupted", err=True)
        return 130
    except BrokenPipeError:
        return 0
    except Exception:
        traceback.print_exc()
        click.echo("This is a bug in ssl_domains; please report it with the lines above.", err=True)
        return 1
    return 0


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A sentence for the user, without the line of our code that says it."""
    click.echo(f"warning: {message}", err=True)


def _sentences(problems: list[str]) -> int:
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
