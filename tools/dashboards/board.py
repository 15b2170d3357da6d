"""A dashboard as a value, and its JSON. Equal values give equal text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from tools.dashboards.panels import PROMETHEUS, AnyPanel

TAG = "the0"


@dataclass(frozen=True)
class Variable:
    """A variable in the header of a dashboard, with values from Prometheus. *metric* may have a selector.

    Attributes:
        several: whether the user may select several values, or all.
    """

    name: str
    label: str
    description: str
    metric: str
    values_of: str
    several: bool = True

    @property
    def query(self) -> str:
        """Return the query in the syntax of Grafana's Prometheus data source."""
        return f"label_values({self.metric}, {self.values_of})"


@dataclass(frozen=True)
class Link:
    """A link in the header of a dashboard."""

    title: str
    url: str
    tooltip: str


@dataclass(frozen=True)
class Row:
    """Panels under one heading, placed from left to right and then down."""

    title: str
    panels: Sequence[AnyPanel]


@dataclass(frozen=True)
class Board:
    """One dashboard. *uid* is part of its URL and never changes."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    links: Sequence[Link] = field(default_factory=tuple)

    def to_json(self) -> str:
        """Return the file that Grafana reads; it ends with a newline."""
        register_default_plugins()
        board = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .refresh("10s")
            .time("now-1h", "now")
            .readonly()
        )
        board.link(
            dashboard.DashboardLink("the0")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .tooltip("The other dashboards of the runtime")
            .as_dropdown(True)
            .include_vars(False)
            .keep_time(True)
        )
        for link in self.links:
            board.link(
                dashboard.DashboardLink(link.title)
                .type(DashboardLinkType.LINK)
                .url(link.url)
                .tooltip(link.tooltip)
                .target_blank(True)
            )
        for variable in self.variables:
            board.with_variable(_variable(variable))
        board.with_variable(
            dashboard.AdHocVariable("filter")
            .label("Filter")
            .description("Narrows every query down to a label's value, such as one namespace")
            .datasource(PROMETHEUS)
        )
        self._lay_out(board)
        return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"

    def _lay_out(self, board: dashboard.Dashboard) -> None:
        number = 1
        for row in self.rows:
            board.with_row(dashboard.Row(row.title).id(number))
            number += 1
            for panel in row.panels:
                board.with_panel(_Built(panel.build(number)))
                number += 1


class _Built(Builder[Panel]):
    """Adapts a finished panel to the SDK, which requires a builder."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def build(self) -> Panel:
        """Return the panel."""
        return self._panel


def _variable(variable: Variable) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.description)
        .datasource(PROMETHEUS)
        .query(variable.query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(variable.several)
        .include_all(variable.several)
    )
    if variable.several:
        made.all_value(".+").current(VariableOption(selected=True, text="All", value="$__all"))
    return made
