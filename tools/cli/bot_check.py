"""`runtime bot check`: check a folder without deploying it."""

from pathlib import Path
from typing import Any

import click

from services.bot_scheduler.policy import read_definition
from tools.author.checks import check_code, check_config, size_findings
from tools.author.config_check import refusals
from tools.author.dependencies.plan import MODULES, VENDOR, packages_step
from tools.author.findings import Finding
from tools.author.starter import StarterKind
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import BotFolder, Kind, kind_of, read_folder
from tools.cli.exit_codes import ExitCode
from tools.cli.folder_options import config_of, config_option, directory_argument, entrypoint_option, runtime_option
from tools.cli.output import output_option, show


@click.command()
@directory_argument
@click.option(
    "--kind",
    type=click.Choice([str(kind) for kind in StarterKind]),
    help="What it is to be deployed as.  [from its entrypoints and its config]",
)
@config_option
@runtime_option
@entrypoint_option
@output_option
def check(
    directory: Path, kind: str | None, config: str | None, runtime: str | None, entrypoint: str | None, output: str
) -> int:
    """Check the folder DIRECTORY as a deploy does: description, entrypoints, dependencies, size, config.

    The config of bot.json, with that of --config, is compared with the description's `schema`. Needs no server. Exit
    code 2 when something is wrong; each line names the file and the remedy.
    """
    given = config_of(config)
    deployed_as: Kind = kind_of(directory) if kind is None else "backtest" if kind == StarterKind.BACKTEST else "bot"
    folder = read_folder(directory, runtime, entrypoint, kind=deployed_as)
    merged = {**folder.config, **given}
    sizes, package = size_findings(folder)
    findings = [*check_code(folder, _built(folder, sizes)), *sizes]
    if merged:
        findings += check_config(folder, deployed_as, merged)
    if kind == StarterKind.SCHEDULE or "schedule" in merged:
        findings += refusals(read_definition, merged, f"{folder.path}: config")
    data: dict[str, Any] = {
        "directory": str(directory),
        "name": folder.name,
        "runtime": folder.description["runtime"],
        "findings": findings,
    }
    if package is not None:
        data |= {"files": package.files, "bytes": len(package.content)}
    show(output, data, lambda: _print(folder, findings, data))
    return ExitCode.USAGE if findings else ExitCode.OK


def _built(folder: BotFolder, findings: list[Finding]) -> set[str]:
    """Return the folders that a deploy builds; add a finding if it could not."""
    try:
        return {VENDOR, MODULES} if packages_step(folder) is not None else set()
    except BotFolderInvalid as error:
        findings.append(Finding(str(folder.path), str(error), "or deploy with --no-build"))
        return set()


def _print(folder: BotFolder, findings: list[Finding], data: dict[str, Any]) -> None:
    for finding in findings:
        click.echo(f"error: {finding.text}", err=True)
    if not findings:
        size = f"{data['files']} file{'s' if data['files'] > 1 else ''}, {data['bytes'] / 1024:.0f} KiB packed"
        click.echo(f"{folder.name} is ready to deploy: {data['runtime']}, {size}")
