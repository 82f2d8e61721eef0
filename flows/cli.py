"""The `amoeba` command: results on standard output, progress and errors on standard error.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from components.progress import say
from flows import cli_check, cli_explore, cli_keys, cli_pull, cli_registry, cli_report, cli_serve
from flows.cli_output import AllowUnsigned, Json, RequireSignature, print_json

_INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="One base language model in, one verified artifact out for every device.",
)
app.command()(cli_pull.pull)
app.command()(cli_check.check)
app.command()(cli_explore.explore)
app.add_typer(cli_keys.app, name="keys")


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"amoeba {version('amoeba-edge')}")
        raise typer.Exit


@app.callback()
def of_itself(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """What is said of the command itself."""


@app.command()
def onboard(
    base: Annotated[
        str, typer.Argument(help="smollm2-135m, a Hugging Face folder, org/name[@revision], or mlflow:NAME@VERSION.")
    ],
    profile: Annotated[str, typer.Option(help="A profile of params.yaml.")] = "quick",
    target: Annotated[list[str] | None, typer.Option(help="Only this target; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a base once, then publish an artifact for every target.

    \b
    amoeba onboard smollm2-135m
    amoeba onboard ./my-model --profile full --target x86_avx512
    amoeba onboard Qwen/Qwen2.5-0.5B-Instruct@main
    """
    from flows.asked import check_onboarding
    from flows.own_server import serve_this_command
    from flows.settings import settings
    from flows.space import ensure_space

    check_onboarding(base, profile, target or ())
    ensure_space(settings().root)  # Prefect's server would wait minutes on a full disk
    serve_this_command()
    from flows.onboard import onboard as run

    outcome = run(base, profile, tuple(target or ()))
    if as_json:
        print_json(outcome)
    else:
        from flows.tables import onboarded

        onboarded(outcome)
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def package(
    model: Annotated[str, typer.Argument(help="A base of bases.yaml.")],
    target: Annotated[str, typer.Argument(help="One of `amoeba targets`.")],
    max_latency_ms: Annotated[float | None, typer.Option(min=0, help="Most milliseconds a token.")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(min=0, help="Most memory, KV cache included.")] = None,
    alias: Annotated[
        str, typer.Option(help="The alias that the new version gets; `candidate` where only the device runs it.")
    ] = "candidate",
    here: Annotated[bool, typer.Option("--here", help="The limits are this machine's, by what ran on it.")] = False,
    as_json: Json = False,
) -> None:
    """Build and publish the best subnet for a target within limits of your own; the target's when none are given.

    \b
    amoeba package smollm2-135m x86_avx2 --max-latency-ms 4
    amoeba package smollm2-135m android_arm64 --max-memory-mb 200 --alias production
    """
    from edge_targets._target import Budget
    from flows.asked import check_building
    from flows.own_server import serve_this_command

    check_building(model, target)
    serve_this_command()
    from flows.package import package as run_package

    given = max_latency_ms is not None or max_memory_mb is not None
    released = run_package(model, target, Budget(max_latency_ms, max_memory_mb) if given else None, alias, here=here)
    if as_json:
        print_json(released)
    else:
        from flows.tables import packaged

        packaged(model, alias, released)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A pulled artifact.")],
    require_signature: RequireSignature = False,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Check a pulled artifact's files and its signature again.

    \b
    amoeba verify model
    amoeba verify model --require-signature
    """
    from flows import trusting
    from registry.manifest import read_manifest

    manifest = read_manifest(folder)
    signer = trusting.signer_of(folder, manifest, trusting.wanted(require_signature, allow_unsigned))
    manifest.verify(folder)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "manifest": manifest.digest,
                "files": len(manifest.files),
                "verified": True,
                "signer": signer,
            }
        )
    else:
        typer.echo(
            f"{folder}: {len(manifest.files)} files are what the manifest says ({manifest.digest[:12]}); "
            f"{trusting.told(signer)}"
        )


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A pulled artifact.")],
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores that it may use when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt with the artifact's own runtime, offline.

    \b
    amoeba run model --prompt "What is gravity?"
    """
    conversation = _conversation(folder, threads)
    pieces = conversation([{"role": "user", "content": prompt}], max_tokens)
    if as_json:
        print_json({"prompt": prompt, "answer": "".join(pieces)})
        return
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


@app.command()
def chat(
    folder: Annotated[Path, typer.Argument(help="A pulled artifact, or a folder of levels.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens an answer.")] = 256,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores that it may use when not given.")] = None,
    slo: Annotated[
        str | None,
        typer.Option(help="With levels: time to first token and per token, in percent of the full model's."),
    ] = None,
) -> None:
    """Talk to an artifact; an empty line or end of input ends it.

    \b
    amoeba chat model
    amoeba levels smollm2-135m --to levels && amoeba chat levels --slo 60,80
    """
    conversation = _adaptive(folder, threads, slo) if slo else _conversation(folder, threads)
    messages: list[dict[str, str]] = []
    while question := _ask():
        messages.append({"role": "user", "content": question})
        answer = ""
        for piece in _fitting(conversation, messages, max_tokens):
            typer.echo(piece, nl=False)
            answer += piece
        typer.echo()
        messages.append({"role": "assistant", "content": answer})


@app.command()
def levels(
    model: Annotated[str, typer.Argument(help="A base of bases.yaml.")],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
) -> None:
    """Put a supernet's shapes into one folder that answers within any latency objective, on torch.

    \b
    amoeba levels smollm2-135m --to levels
    """
    from flows.levels import make_levels

    typer.echo(make_levels(model, to))


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(help="A pulled artifact.")],
    out: Annotated[Path | None, typer.Option(help="A file for the figures, which `amoeba measured` takes.")] = None,
    runs: Annotated[int, typer.Option(min=3, help="Timed runs, after one that warms up.")] = 7,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens written a run.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores that it may use when not given.")] = None,
) -> None:
    """Measure an artifact on this machine: time to first token, time per token, memory, every sample.

    \b
    amoeba bench model --out bench.json
    """
    from components.files import replace_text
    from components.progress import progress
    from edge_targets._device import facts
    from edge_targets._device.bench import bench as measure
    from edge_targets._device.machine import usable_cores
    from registry.manifest import read_manifest

    read_manifest(folder).verify(folder)
    using = threads or usable_cores()
    figures = measure(folder, facts.load(folder, using), using, runs, new_tokens, progress("bench"))
    if out is None:
        print_json(figures)
    else:
        replace_text(out, json.dumps(figures, indent=1) + "\n")
        typer.echo(
            f"{out}: {figures['latency']['ttft_ms']:.0f} ms to the first of {new_tokens} tokens, "
            f"{figures['latency']['tpot_ms']:.1f} ms for each after it"
        )


@app.command()
def measured(
    file: Annotated[Path, typer.Argument(help="What `amoeba bench`, or the package's `bench.py`, wrote on a device.")],
    as_json: Json = False,
) -> None:
    """Take a device's figures into the registry, beside the version they were measured on.

    \b
    amoeba measured bench.json
    """
    from flows.measured import record

    recorded = record(file)
    if as_json:
        print_json(recorded)
        return
    was, now = recorded.before, recorded.after
    typer.echo(
        f"{recorded.version.registered_model} version {recorded.version.version} on {recorded.host}: "
        f"{now.tpot_ms:.1f} ms a token ({was.measured_on} {was.tpot_ms:.1f}), "
        f"{now.ttft_ms:.0f} ms to the first ({was.measured_on} {was.ttft_ms:.0f})"
    )


@app.command()
def targets(as_json: Json = False) -> None:
    """List the devices there is a target for.

    \b
    amoeba targets --json
    """
    import edge_targets

    known = [edge_targets.load(name) for name in edge_targets.names()]
    if as_json:
        print_json(
            [
                {
                    "name": target.name,
                    "title": target.title,
                    "runtime": target.runtime,
                    "quantizations": [quantization.name for quantization in target.quantizations],
                    "device": target.device,
                    "budget": target.budget,
                }
                for target in known
            ]
        )
        return
    from flows.tables import target_list

    target_list(known)


@app.command()
def frontier(
    model: Annotated[str | None, typer.Argument(help="A base, or `BASE--TARGET`; all when not given.")] = None,
    as_json: Json = False,
) -> None:
    """List what is released: versions, aliases and measured points.

    \b
    amoeba frontier smollm2-135m
    amoeba frontier smollm2-135m--x86_avx512
    """
    from flows.measured import point_of
    from flows.tracking import store
    from registry.errors import OF_ONE_VERSION
    from registry.naming import base_and_target

    registry = store()
    names = [name for name in registry.models() if model in (None, name, base_and_target(name)[0])]
    if model is not None and not names:
        registry.versions(model)
    rows: list[dict[str, Any]] = []
    for name in names:
        for version in registry.versions(name):
            try:
                point, lineage = point_of(registry, version), registry.manifest(version).lineage
            except (*OF_ONE_VERSION, ValueError) as error:
                rows.append({"version": version, "point": None, "lineage": {}, "refused": str(error)})
            else:
                rows.append({"version": version, "point": point, "lineage": lineage})
    if as_json:
        print_json(rows)
        return
    from flows.tables import releases

    releases(rows)


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(help="A base's name in the registry, or NAME@ALIAS or NAME@VERSION.")],
    target: Annotated[str | None, typer.Argument(help="One of `amoeba targets`; the supernet when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a release was made from, step by step, each with its digest: base, data, selection, supernet, subnet, package.

    \b
    amoeba lineage smollm2-135m x86_avx512
    amoeba lineage smollm2-135m@previous x86_avx512
    """
    from flows.lineage import trace
    from flows.tracking import store

    name, _, chosen = model.partition("@")
    steps = trace(store(), name, target, chosen or "production")
    if as_json:
        print_json(steps)
        return
    from flows.tables import lineage_steps

    lineage_steps(steps)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for what is missing, with the line that mends it: exit 1 where something is.

    \b
    amoeba doctor
    """
    from flows.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        from flows.tables import examined

        examined(findings)
    raise typer.Exit(0 if all(finding.fine for finding in findings) else 1)


app.command()(cli_report.report)
cli_registry.add_to(app)
cli_serve.add_to(app)


def _conversation(folder: Path, threads: int | None) -> Any:
    """A function from messages and a limit to the answer's pieces; the folder is verified first."""
    from edge_targets._device.command import Answers
    from edge_targets._device.machine import usable_cores
    from registry.manifest import read_manifest

    read_manifest(folder).verify(folder)
    return Answers(folder, threads or usable_cores()).to


def _fitting(conversation: Any, messages: list[dict[str, str]], max_tokens: int) -> Any:
    """The answer to a conversation, of which what was said first is forgotten where the context is full."""
    from edge_targets._device.command import NoRoomError

    while True:
        try:
            return conversation(messages, max_tokens)
        except NoRoomError:
            if len(messages) < 2:
                raise
            del messages[:2]
            say("the context is full: the oldest question and its answer are forgotten")


def _adaptive(folder: Path, threads: int | None, slo: str) -> Any:
    """The same for a folder of levels and a latency objective; what answers is said on standard error."""
    from components.prompts import Objective
    from components.quiet import quiet_libraries
    from edge_targets._device.text import Text
    from registry.manifest import read_manifest

    objective = Objective.parse(slo)
    if not (folder / "levels.json").is_file():
        raise ValueError(
            f"{folder} is no folder of levels, which --slo needs; `amoeba levels MODEL --to DIR` makes one"
        )
    read_manifest(folder).verify(folder)
    quiet_libraries()
    import torch

    from components.adaptive import Adaptive

    torch.set_num_threads(threads or torch.get_num_threads())
    opened, text = Adaptive(folder), Text(folder)
    decision = opened.decide(objective)
    point = decision.point
    sys.stderr.write(
        f"{'' if decision.met else 'nothing meets this objective; the nearest: '}{point.shape} with {point.prompt_share:.0%} of "
        f"the prompt: {point.ttft:.0%} of the full model's time to first token, {point.tpot:.0%} of its time per token\n"
    )

    def answer(messages: list[dict[str, str]], max_tokens: int) -> Any:
        return text.stream(opened.answer(text.chat(messages), point, max_tokens))

    return answer


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _fail(message: str) -> NoReturn:
    say(f"error: {message}")
    raise SystemExit(2)


def main() -> None:
    """Run the command; every expected trouble is one line on standard error, a fault its traceback, and either is exit 2.

    Exit 1 is what a command found: a regression, a target that failed.
    """
    # Commands that answer about themselves need no environment.
    if "--help" in sys.argv or sys.argv[1:2] in ([], ["--version"]):
        app()
    from flows.settings import check_workspace, prepare_environment
    from flows.trouble import explained

    try:
        check_workspace()
        prepare_environment()
        app()
    except SystemExit as ended:  # which is what Typer makes of Ctrl-C
        if ended.code == _INTERRUPTED:
            say("stopped; run the same command again to go on from here")
        raise
    except Exception as error:
        message = explained(error)
        if message is None:
            traceback.print_exc()
        _fail(message or f"{type(error).__name__}, which is a fault of this command")


if __name__ == "__main__":
    main()
