"""The kinds of panels in our dashboards, as values, and their conversion to Grafana's panels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    Panel,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")

_ROW_HEIGHT = 8
_COLOURS = ("green", "orange", "red")


@dataclass(frozen=True)
class Query:
    """One expression and the names of its series. *legend* contains labels as `{{label}}`."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Lines:
    """Series over time.

    Attributes:
        unit: Grafana's name of the unit.
        limits: values for a warning and for an error, drawn as dashed lines.
        stacked: whether the sum of the series is meaningful.
        from_zero: whether no value is negative.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    limits: Sequence[float] = ()
    stacked: bool = False
    from_zero: bool = True
    width: int = 8
    height: int = _ROW_HEIGHT

    def build(self, number: int) -> Panel:
        """Return Grafana's panel with this id."""
        panel = (
            _placed(timeseries.Panel(), self, number)
            .thresholds(_thresholds(self.limits))
            .line_width(1)
            .fill_opacity(30 if self.stacked else 8)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.TABLE)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
                .calcs(["lastNotNull", "max"])
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
        if self.from_zero:
            panel.min(0)
        if self.stacked:
            panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
        if self.limits:
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
        for name, query in zip(_names(self.queries), self.queries, strict=True):
            panel.with_target(prometheus.Dataquery().ref_id(name).expr(query.expr).legend_format(query.legend).range())
        return panel.build()


@dataclass(frozen=True)
class Number:
    """Current values as large numbers, coloured by the limits.

    Attributes:
        lower_is_bad: values below the limits are bad; the first limit is the error.
        only_good: the only good value; replaces limits.
    """

    title: str
    description: str
    unit: str
    query: Query
    limits: Sequence[float] = ()
    lower_is_bad: bool = False
    only_good: float | None = None
    width: int = 4
    height: int = 4

    def build(self, number: int) -> Panel:
        """Return Grafana's panel with this id."""
        panel = (
            _placed(stat.Panel(), self, number)
            .thresholds(self._thresholds())
            .color_mode(BigValueColorMode.VALUE)
            .graph_mode(BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
        panel.with_target(
            prometheus.Dataquery().ref_id("A").expr(self.query.expr).legend_format(self.query.legend).range()
        )
        return panel.build()

    def _thresholds(self) -> dashboard.ThresholdsConfig:
        if self.only_good is None:
            return _thresholds(self.limits, lower_is_bad=self.lower_is_bad)
        return _steps([(None, "red"), (self.only_good, "green"), (self.only_good + 1, "red")])


@dataclass(frozen=True)
class Table:
    """A table with one row of labels and value for each series of one query."""

    title: str
    description: str
    unit: str
    query: Query
    columns: Sequence[str]
    value_name: str
    limits: Sequence[float] = ()
    width: int = 24
    height: int = _ROW_HEIGHT

    def build(self, number: int) -> Panel:
        """Return Grafana's panel with this id."""
        order = {name: position for position, name in enumerate([*self.columns, "Value"])}
        panel = (
            _placed(table.Panel(), self, number)
            .thresholds(_thresholds(self.limits))
            .show_header(True)
            .with_transformation(
                DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {"Time": True},
                        "indexByName": order,
                        "renameByName": {"Value": self.value_name},
                    },
                )
            )
        )
        panel.with_target(
            prometheus.Dataquery()
            .ref_id("A")
            .expr(self.query.expr)
            .legend_format(self.query.legend)
            .format(PromQueryFormat.TABLE)
            .instant()
        )
        return panel.build()


@dataclass(frozen=True)
class Note:
    """Text in Markdown."""

    title: str
    content: str
    width: int = 24
    height: int = 5
    description: str = field(default="Notes on this dashboard.")

    def build(self, number: int) -> Panel:
        """Return Grafana's panel with this id."""
        return (
            text.Panel()
            .id(number)
            .title(self.title)
            .description(self.description)
            .span(self.width)
            .height(self.height)
            .mode(TextMode.MARKDOWN)
            .content(self.content)
            .build()
        )


AnyPanel = Lines | Number | Table | Note

Measuring = TypeVar("Measuring", timeseries.Panel, stat.Panel, table.Panel)


def _placed(panel: Measuring, shown: Lines | Number | Table, number: int) -> Measuring:
    """Add the settings that all panels with data from Prometheus share to *panel*."""
    return (
        panel.id(number)
        .title(shown.title)
        .description(shown.description)
        .datasource(PROMETHEUS)
        .span(shown.width)
        .height(shown.height)
        .unit(shown.unit)
    )


def _thresholds(limits: Sequence[float], *, lower_is_bad: bool = False) -> dashboard.ThresholdsConfig:
    colours = _COLOURS[: len(limits) + 1]
    if lower_is_bad:
        colours = _COLOURS[len(limits) :: -1]
    return _steps(list(zip([None, *limits], colours, strict=True)))


def _steps(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    made = [Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(made)


def _names(queries: Sequence[Query]) -> list[str]:
    return [chr(ord("A") + position) for position in range(len(queries))]
