"""Every alert has a summary, and its section in the runbook."""

import re

import pytest

from tests.monitoring.rules import ROOT, Rule, alerts

RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
TEXT = RUNBOOK.read_text()
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))

each_alert = pytest.mark.parametrize("alert", alerts().values(), ids=alerts())


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert SECTIONS.keys() == alerts().keys()


@each_alert
def test_alert_has_severity_and_summary(alert: Rule) -> None:
    assert alert.severity in {"critical", "warning", "info"}
    assert alert.annotations.keys() == {"summary", "description", "runbook"}
    assert len(alert.annotations["summary"]) <= 100


@each_alert
def test_an_alert_leads_to_its_section(alert: Rule) -> None:
    assert alert.annotations["runbook"] == f"deploy/RUNBOOK.md#{alert.name.lower()}"


@pytest.mark.parametrize("name", SECTIONS)
def test_runbook_section_has_meaning_diagnosis_and_remedy(name: str) -> None:
    assert re.findall(r"^\*\*(\w+):\*\*", SECTIONS[name], re.MULTILINE) == ["Means", "Look", "Do"]


def test_a_section_refers_only_to_alerts_that_there_are() -> None:
    named = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", TEXT)) | set(re.findall(r"\bMongoDB[A-Z]\w+", TEXT))
    others = {"MongoDB", "NetworkPolicies", "ServiceMonitors", "PrometheusRule", "DaemonSet"}

    assert named - others <= alerts().keys()


def test_every_path_that_it_names_exists() -> None:
    paths = [path.split("#")[0] for path in re.findall(r"\]\(([\w./#-]+)\)", TEXT)]

    assert [path for path in paths if not (RUNBOOK.parent / path).exists()] == []
