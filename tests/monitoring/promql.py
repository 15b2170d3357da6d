"""What an expression asks for: its selectors, read as far as that needs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<duration>\[[^\]]*\])
    | (?P<matchers>\{(?:[^}"']|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')*\})
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<number>[0-9][0-9a-zA-Z.]*)
    | (?P<other>.)
    """,
    re.VERBOSE,
)
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", *_LABEL_LISTS}
_MATCHER = re.compile(r"""([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_SUFFIX = re.compile(r"_(?:total|bucket|count|sum|info)$")


@dataclass(frozen=True)
class Selector:
    """A metric with what its labels must be: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        inside = ", ".join(f'{label}{operator}"{value}"' for label, operator, value in self.matchers)
        return f"{self.metric}{{{inside}}}" if inside else self.metric

    def without(self, label: str) -> "Selector":
        """The same for any value of that label."""
        return Selector(self.metric, tuple(matcher for matcher in self.matchers if matcher[0] != label))

    @property
    def family(self) -> str:
        """The name under which a process declares it."""
        return _SUFFIX.sub("", self.metric)


def selectors(expression: str) -> list[Selector]:
    """All of an expression, from left to right."""
    tokens = [token for token in _tokens(expression) if token[0] != "space"]
    found: list[Selector] = []
    skip_until = -1
    for position, (kind, text) in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else ("end", "")
        if position <= skip_until or kind != "name":
            continue
        if text.lower() in _LABEL_LISTS and following[1] == "(":
            skip_until = next(place for place in range(position, len(tokens)) if tokens[place][1] == ")")
        elif text.lower() not in _WORDS and following[1] != "(" and not _aggregates(tokens, position):
            matchers = _MATCHER.findall(following[1]) if following[0] == "matchers" else []
            found.append(Selector(text, tuple((label, operator, value[1:-1]) for label, operator, value in matchers)))
    return found


def _aggregates(tokens: list[tuple[str, str]], position: int) -> bool:
    """Whether the name is that of an aggregation whose label list comes first: `sum by (a) (...)`."""
    following = tokens[position + 1][1].lower() if position + 1 < len(tokens) else ""
    return following in {"by", "without"}


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(expression):
        assert match.lastgroup is not None
        yield match.lastgroup, match.group()
