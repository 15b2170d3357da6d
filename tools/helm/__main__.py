"""`python -m tools.helm` regenerates the templates of deploy/helm/the0-runtime from the Kustomize base."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from libs.core.process.service import SERVICES
from tools.helm.template import service_template
from tools.stack import binaries

CHART = Path("deploy") / "helm" / "the0-runtime"
_DASHBOARDS = Path("deploy") / "grafana" / "dashboards"
_RULES = Path("deploy") / "prometheus" / "rules"
_MONITORING = Path("deploy") / "kubernetes" / "components" / "prometheus-operator"
_RENDER_SECONDS = 60


def chart_files(root: Path) -> Mapping[Path, str]:
    """The generated files of the chart, by their paths below *root*.

    Raises:
        ChartError: the base is not as the chart needs it.
        subprocess.CalledProcessError: kubectl cannot render the base.
    """
    base = root / "deploy" / "kubernetes" / "base"
    rendered = {service: list(yaml.safe_load_all(_kustomized(base / service.name))) for service in SERVICES}
    dashboards = {path.name: path.read_text() for path in sorted((root / _DASHBOARDS).glob("*.json"))}
    rules = {path.name: path.read_text() for path in sorted((root / _RULES).glob("*.yml"))}
    return {
        **{CHART / "files" / "dashboards" / name: text for name, text in dashboards.items()},
        **{CHART / "files" / "rules" / name: text for name, text in rules.items()},
        CHART / "templates" / "services.yaml": service_template(rendered),
        CHART / "files" / "engine.sh": (base / "service" / "engine.sh").read_text(),
        CHART / "files" / "service-monitors.yaml": (root / _MONITORING / "service-monitors.yaml").read_text(),
        CHART / "files" / "rules.yaml": (root / _MONITORING / "rules.yaml").read_text(),
    }


def main(root: Path) -> None:
    """Write all generated files below *root*."""
    for path, text in chart_files(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        sys.stdout.write(f"{path}\n")


def _kustomized(folder: Path) -> str:
    command = [str(binaries.kubectl()), "kustomize", str(folder)]
    ran = subprocess.run(  # noqa: S603 - a command of ours
        command, capture_output=True, text=True, timeout=_RENDER_SECONDS, check=True
    )
    return ran.stdout


if __name__ == "__main__":
    main(Path(__file__).parents[2])
