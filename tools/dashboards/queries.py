"""PromQL expressions that several dashboards use."""

OPERATIONS = "runtime_operation_seconds"


def rate(counter: str, selector: str, by: str) -> str:
    """Return the rate per second, for each value of the labels *by*."""
    return f"sum by ({by}) (rate({counter}{{{selector}}}[$__rate_interval]))"


def rate_or_zero(counter: str, selector: str, narrower: str, by: str) -> str:
    """As rate(), for series that *narrower* also selects; 0 if other series exist but none of these.

    A counter that was never incremented is not exposed, and a panel without data looks broken.
    """
    return f"{rate(counter, f'{selector}, {narrower}', by)} or 0 * {rate(counter, selector, by)}"


def increase(counter: str, selector: str, by: str = "", window: str = "$__rate_interval") -> str:
    """Return the increase within *window*, for each value of the labels *by*."""
    of_each = f"(increase({counter}{{{selector}}}[{window}]))"
    return f"sum by ({by}) {of_each}" if by else f"sum{of_each}"


def quantile(share: float, histogram: str, selector: str, by: str = "") -> str:
    """Return the duration below which *share* of all fall, for each value of the labels *by*; NaN without data."""
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share:g}, sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))"
    )


def total(gauge: str, selector: str, by: str = "") -> str:
    """Return the sum over all processes, for each value of the labels *by*."""
    return f"sum by ({by}) ({gauge}{{{selector}}})" if by else f"sum({gauge}{{{selector}}})"


def not_well(selector: str, by: str) -> str:
    """Return how many processes report a dependency as not ready, for each value of the labels *by*."""
    states = f'runtime_dependency_ok{{{selector}, dependency!="leadership"}}'
    return f"count by ({by}) ({states} == 0) or 0 * count by ({by}) ({states})"


def or_zero(expression: str) -> str:
    """Return *expression*, or 0 without labels if it has no result."""
    return f"{expression} or on () vector(0)"
