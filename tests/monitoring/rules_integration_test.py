"""The rules, checked and tried by Prometheus's own tool."""

import subprocess
from pathlib import Path
from typing import Any

import pytest_asyncio
import yaml

from tests.monitoring.alert_cases import CASES, MINUTES, Case, Series
from tests.monitoring.rules import FILES, alerts
from tools.debian.packages import ensure_unpacked


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def promtool() -> Path:
    """Prometheus's own checker."""
    return await ensure_unpacked("promtool", "prometheus")


def run(promtool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=120, check=False)


async def test_prometheus_accepts_the_rules_and_finds_no_fault_in_them(promtool: Path) -> None:
    process = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *FILES)

    assert process.returncode == 0, process.stdout + process.stderr


async def test_the_checker_refuses_a_rule_that_is_wrong(promtool: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("groups: [{name: x, rules: [{alert: X, expr: 'sum by ('}]}]")

    assert run(promtool, "check", "rules", wrong).returncode != 0


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES} == alerts().keys()


async def test_every_alert_fires_when_it_should_and_only_then(promtool: Path, tmp_path: Path) -> None:
    tests = [tried(series, case, firing) for case in CASES for series, firing in ((case.fires, 1), (case.quiet, 0))]
    path = tmp_path / "alerts.yml"
    document = {"rule_files": [str(file) for file in FILES], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(document))

    process = run(promtool, "test", "rules", path)

    assert process.returncode == 0, process.stdout + process.stderr


async def test_a_case_that_expects_what_does_not_happen_is_noticed(promtool: Path, tmp_path: Path) -> None:
    case = CASES[0]
    document = {"rule_files": [str(file) for file in FILES], "tests": [tried(case.quiet, case, 1)]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(document))

    assert run(promtool, "test", "rules", tmp_path / "alerts.yml").returncode != 0


def tried(series: Series, case: Case, firing: int) -> dict[str, Any]:
    """One test of promtool: these series, and whether the alert fires at their end."""
    labels = {
        "alertname": case.alert,
        "alertstate": "firing",
        "severity": alerts()[case.alert].severity,
        **case.labels,
    }
    inside = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {
        "name": f"{case.alert} {'fires' if firing else 'is quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}',
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"labels": f"ALERTS{{{inside}}}", "value": 1}] * firing,
            }
        ],
    }
