"""The command line of one service's processes, as in its image: `master | worker`, and the contract's flags.

The `runtime` command offers the same for all services; this one needs only the standard library.
"""

import argparse
from collections.abc import Sequence
from typing import Literal, cast

from libs.core.process.service import ServiceDefinition

Role = Literal["master", "worker"]
_ROLES = ("master", "worker")
_FLAGS = {
    "--max-segment": "segments this deployment is sized for",
    "--mode": "how workers find the master: cluster or standalone",
    "--mongo-uri": "connection string of MongoDB",
    "--worker-id": "name of this process",
}


def parse(service: ServiceDefinition, arguments: Sequence[str], *, program: str = "") -> tuple[Role, dict[str, object]]:
    """Return the role to run, and the flags by name without dashes; None for a flag that was not given.

    Args:
        program: the program's name in help texts, if not the service's own image.

    Raises:
        SystemExit: the arguments are wrong (2, usage is printed), or help was requested (0).
    """
    parser = argparse.ArgumentParser(
        prog=program or service.name,
        description=f"Processes of {service.name}; everything else is set by environment variables.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="master|worker")
    for role in _ROLES:
        _add_flags(commands.add_parser(role))
    if service.name == "backtest-runner":
        standalone = commands.add_parser("standalone")
        standalone.add_argument("--node", choices=_ROLES, required=True)
        _add_flags(standalone)
    flags = vars(parser.parse_args(arguments))
    command, node = flags.pop("command"), flags.pop("node", None)
    if node is not None:
        flags["mode"] = flags["mode"] or "standalone"
    return cast(Role, node or command), flags


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for flag, meaning in _FLAGS.items():
        parser.add_argument(flag, help=meaning)
