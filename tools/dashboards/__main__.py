"""`python -m tools.dashboards` regenerates deploy/grafana/dashboards and the rules for the Prometheus operator."""

import sys
from pathlib import Path

from tools.dashboards.catalogue import FOLDER, dashboards
from tools.dashboards.prometheus_rule import OBJECT, prometheus_rule


def main(root: Path) -> None:
    """Write all generated files below *root*."""
    write_dashboards(root)
    (root / OBJECT).write_text(prometheus_rule(root))
    sys.stdout.write(f"{OBJECT}\n")


def write_dashboards(root: Path) -> None:
    """Write every dashboard, and remove the files of former dashboards."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    made = dashboards()
    for path in folder.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)
        sys.stdout.write(f"{FOLDER / name}\n")


def root() -> Path:
    """Return the root of the repository."""
    return Path(__file__).parents[2]


if __name__ == "__main__":
    main(root())
