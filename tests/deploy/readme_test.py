"""deploy/README.md says what is so."""

import re

from tests.deploy.manifests import ROOT
from tests.deploy.settings_table import README, in_readme, table

TEXT = README.read_text()


def test_table_of_settings_equals_the_declared_settings() -> None:
    assert in_readme() == table(), "python -m tests.deploy.settings_table writes it anew"


def test_every_path_that_it_names_exists() -> None:
    paths = set(re.findall(r"(?:deploy|tools|libs)/[\w./-]+\w", TEXT)) - {"deploy/compose/.env"}

    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(
        re.findall(r"^\.PHONY: (.*)$", (ROOT / "deploy/compose/Makefile").read_text(), re.MULTILINE)[0].split()
    )

    assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(code(TEXT)))) <= targets


def code(text: str) -> list[str]:
    """What stands in code blocks and between backquotes."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_every_link_within_it_has_a_target() -> None:
    headings = {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
