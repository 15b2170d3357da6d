"""The committed dashboards equal the generated ones, and each panel has a description."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.dashboards.__main__ import root, write_dashboards
from tools.dashboards.catalogue import FOLDER, dashboards
from tools.dashboards.prometheus_rule import OBJECT, prometheus_rule

MADE = {name: json.loads(text) for name, text in dashboards().items()}

each_dashboard = pytest.mark.parametrize("board", MADE.values(), ids=MADE.keys())


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def test_the_committed_files_are_those_that_are_made() -> None:
    committed = {path.name: path.read_text() for path in (root() / FOLDER).glob("*.json")}

    assert committed == dict(dashboards()), "python -m tools.dashboards writes them anew"


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    assert (root() / OBJECT).read_text() == prometheus_rule(root()), "python -m tools.dashboards writes them anew"


def test_making_them_twice_gives_the_same_text() -> None:
    assert dashboards() == dashboards()


def test_no_two_dashboards_share_an_address_or_a_title() -> None:
    assert len({board["uid"] for board in MADE.values()}) == len(MADE)
    assert len({board["title"] for board in MADE.values()}) == len(MADE)


@each_dashboard
def test_every_panel_has_description_and_unit(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        if panel["type"] != "text":
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["unit"], panel["title"]
            assert defaults["thresholds"]["steps"], panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@each_dashboard
def test_panels_fill_the_width_without_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@each_dashboard
def test_all_data_comes_from_the_sources_that_are_provisioned(board: dict[str, Any]) -> None:
    chosen = [panel["datasource"] for panel in panels(board) if panel["type"] != "text"]
    chosen += [variable["datasource"] for variable in board["templating"]["list"]]

    assert {source["uid"] for source in chosen} == {"prometheus"}
    assert all('"uid":"jaeger"' in link["url"] for link in board["links"] if link["title"] == "Traces")


@each_dashboard
def test_dashboard_refreshes_and_links_to_others_and_traces(board: dict[str, Any]) -> None:
    assert board["refresh"] == "10s"
    assert {link["title"] for link in board["links"]} == {"the0", "Traces"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_writing_them_removes_those_that_are_none_any_more(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "former.json").write_text("{}")

    write_dashboards(tmp_path)

    assert {path.name for path in folder.iterdir()} == MADE.keys()
