"""Lists of destinations in settings."""

import pytest

from libs.core.config.destinations import destinations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("10.1.2.3", ["10.1.2.3/32"]),
        ("10.1.2.3:8443", ["10.1.2.3/32:8443"]),
        ("10.8.0.0/16, 192.168.4.0/24:443", ["10.8.0.0/16", "192.168.4.0/24:443"]),
        ("fd00::5", ["fd00::5/128"]),
        ("[fd00::5]", ["fd00::5/128"]),
        ("[fd00::/8]:65535", ["fd00::/8:65535"]),
        ("0.0.0.0/0:1", ["0.0.0.0/0:1"]),
    ],
)
def test_addresses_and_networks_are_read_with_their_ports(text: str, expected: list[str]) -> None:
    assert [str(destination) for destination in destinations(text)] == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "gateway.internal",
        "10.1.2",
        "10.1.2.3/33",
        "10.1.2.3/16",
        "10.1.2.3:",
        "10.1.2.3:0",
        "10.1.2.3:65536",
        "10.1.2.3:ssh",
        "10.1.2.3:٤٤٣",
        "[fd00::5",
        "[fd00::5]443",
        "[fd00::5]:",
        "fd00::5:99999",
    ],
)
def test_anything_else_is_an_error_that_names_the_part(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"is no address|has no port") as raised:
        destinations(f"10.0.0.1, {wrong}")
    assert repr(wrong) in str(raised.value)
