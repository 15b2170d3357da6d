"""The table of settings in deploy/README.md, written from the settings themselves.

`python -m tests.deploy.settings_table` writes it anew; a test fails while the file says something else.
"""

from pathlib import Path

from libs.core.config.groups import GROUPS
from libs.core.config.settings_loader import SettingRow, rows
from libs.core.process.service import SERVICES
from tests.deploy.manifests import ROOT

README = ROOT / "deploy" / "README.md"
BEGIN = "<!-- settings: python -m tests.deploy.settings_table -->"
END = "<!-- end of settings -->"


def table() -> str:
    """The table in Markdown. Where the services differ, all their defaults are shown, in the services' order."""
    variants: dict[str, list[SettingRow]] = {}
    for service in SERVICES:
        for row in rows(GROUPS, service):
            variants.setdefault(row.name, []).append(row)
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, found in variants.items():
        defaults = list(dict.fromkeys(row.default for row in found))
        names = f"`{name}`" + "".join(f" (or `{alias}`)" for alias in found[0].aliases)
        shown = ", ".join(f"`{default}`" if default else "required" for default in defaults)
        lines.append(f"| {names} | {shown} | {found[0].meaning}; {found[0].allowed} |")
    return "\n".join(lines)


def in_readme(path: Path = README) -> str:
    """What stands in the file now, without the marks."""
    return path.read_text().split(BEGIN)[1].split(END)[0].strip()


def write(path: Path = README) -> None:
    """Put the table into the file."""
    head, rest = path.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}")


if __name__ == "__main__":
    write()
