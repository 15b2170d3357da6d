"""Expressions that several dashboards ask for."""

OPERATIONS = "runtime_operation_seconds"


def rate(counter: str, selector: str, by: str) -> str:
    """How many a second, for each value of the labels *by*."""
    return f"sum by ({by}) (rate({counter}{{{selector}}}[$__rate_interval]))"


def rate_or_zero(counter: str, selector: str, narrower: str, by: str) -> str:
    """As rate(), of those that *narrower* selects as well, and 0 where there are others but none of these.

    A counter of what has never happened is not exposed, and a panel without data looks like one that is broken.
    """
    return f"{rate(counter, f'{selector}, {narrower}', by)} or 0 * {rate(counter, selector, by)}"


def increase(counter: str, selector: str, by: str = "", window: str = "$__rate_interval") -> str:
    """How many there were within *window*, for each value of the labels *by*."""
    of_each = f"(increase({counter}{{{selector}}}[{window}]))"
    return f"sum by ({by}) {of_each}" if by else f"sum{of_each}"


def quantile(share: float, histogram: str, selector: str, by: str = "") -> str:
    """The duration that *share* of all stay below, for each value of the labels *by*; NaN when there were none."""
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share:g}, sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))"
    )


def total(gauge: str, selector: str, by: str = "") -> str:
    """The sum over all processes, for each value of the labels *by*."""
    return f"sum by ({by}) ({gauge}{{{selector}}})" if by else f"sum({gauge}{{{selector}}})"


def not_well(selector: str, by: str) -> str:
    """How many processes say of a dependency that it is not well, for each value of the labels *by*."""
    states = f'runtime_dependency_ok{{{selector}, dependency!="leadership"}}'
    return f"count by ({by}) ({states} == 0) or 0 * count by ({by}) ({states})"


def or_zero(expression: str) -> str:
    """0 when *expression* has nothing to say; then without labels."""
    return f"{expression} or on () vector(0)"
