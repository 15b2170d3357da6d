"""`python -m tools.dashboards` writes deploy/grafana/dashboards anew."""

import sys
from pathlib import Path

from tools.dashboards.catalogue import FOLDER, dashboards


def main(root: Path) -> None:
    """Write every dashboard, and remove what is none any more."""
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
    """The root of the repository."""
    return Path(__file__).parents[2]


if __name__ == "__main__":
    main(root())
