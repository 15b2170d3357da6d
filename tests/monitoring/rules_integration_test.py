"""The rules, checked and evaluated by Prometheus's own tool."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest_asyncio
import yaml

from tests.monitoring.alert_cases import CASES, MINUTES, NAMESPACE, Case
from tests.monitoring.rules import FILES, alerts
from tests.support.servers.prometheus import prometheus_program


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def promtool() -> Path:
    """Prometheus's own checker."""
    return await prometheus_program("promtool")


def run(promtool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=120, check=False)


async def test_prometheus_accepts_the_rules_and_finds_no_fault_in_them(promtool: Path) -> None:
    process = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *FILES)

    assert process.returncode == 0, process.stdout + process.stderr


async def test_the_checker_refuses_a_rule_that_is_wrong(promtool: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("groups: [{name: x, rules: [{alert: X, expr: 'sum by ('}]}]")

    assert run(promtool, "check", "rules", wrong).returncode != 0


async def test_every_alert_fires_when_it_should_and_only_then(promtool: Path, tmp_path: Path) -> None:
    trials = [Trial(number, case, fires) for number, case in enumerate(CASES) for fires in (True, False)]

    process = run(promtool, "test", "rules", written(tmp_path / "alerts.yml", trials))

    assert process.returncode == 0, process.stdout + process.stderr


async def test_a_case_that_expects_what_does_not_happen_is_noticed(promtool: Path, tmp_path: Path) -> None:
    case = CASES[0]
    wrong = Trial(0, replace(case, fires=case.quiet), fires=True)

    assert run(promtool, "test", "rules", written(tmp_path / "alerts.yml", [wrong])).returncode != 0


@dataclass(frozen=True)
class Trial:
    """One case, and which half of it."""

    number: int
    case: Case
    fires: bool

    @property
    def namespace(self) -> str:
        """Shows in promtool's message."""
        return f"case-{self.number}-{'fires' if self.fires else 'is-quiet'}"

    def series(self) -> Iterator[dict[str, str]]:
        """What is measured."""
        for name, values in (self.case.fires if self.fires else self.case.quiet).items():
            yield {"series": name.replace(NAMESPACE, self.namespace), "values": values}

    def expectation(self) -> dict[str, Any]:
        """Whether the alert fires at the end, and with which labels."""
        alert = self.case.alert
        labels = {
            "alertname": alert,
            "alertstate": "firing",
            "severity": alerts()[alert].severity,
            "namespace": self.namespace,
            **self.case.labels,
        }
        inside = ", ".join(f'{name}="{value}"' for name, value in labels.items())
        return {
            "expr": f'ALERTS{{alertname="{alert}", alertstate="firing", namespace="{self.namespace}"}}',
            "eval_time": f"{MINUTES}m",
            "exp_samples": [{"labels": f"ALERTS{{{inside}}}", "value": 1}] if self.fires else [],
        }


def written(path: Path, trials: Sequence[Trial]) -> Path:
    """A file for promtool that tries all of them at once."""
    test = {
        "interval": "1m",
        "input_series": [series for trial in trials for series in trial.series()],
        "promql_expr_test": [trial.expectation() for trial in trials],
    }
    document = {"rule_files": [str(file) for file in FILES], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document))
    return path
