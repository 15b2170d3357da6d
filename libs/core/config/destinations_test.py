"""Lists of destinations in settings."""

import pytest

from libs.core.config.destinations import destinations, proxy


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


@pytest.mark.parametrize(
    ("text", "url", "destination"),
    [
        ("http://10.1.2.3:3128", "http://10.1.2.3:3128", "10.1.2.3/32:3128"),
        ("HTTPS://10.1.2.3:443/", "https://10.1.2.3:443", "10.1.2.3/32:443"),
        ("http://[FD00::5]:3129", "http://[fd00::5]:3129", "fd00::5/128:3129"),
    ],
)
def test_proxy_opens_exactly_its_address_and_port(text: str, url: str, destination: str) -> None:
    found = proxy(text)

    assert (found.url, str(found.destination)) == (url, destination)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://proxy.example:3128", "set the proxy's address instead of its name"),
        ("10.1.2.3:3128", "must be http://ADDRESS:PORT"),
        ("socks5://10.1.2.3:1080", "must be http://ADDRESS:PORT"),
        ("http://10.1.2.3", "has no port"),
        ("http://10.1.2.3:0", "has no port"),
        ("http://10.1.2.3:99999", "is no URL"),
        ("http://10.1.2.3:3128/path", "must be http://ADDRESS:PORT"),
        ("http://10.1.2.3:3128?a=b", "must be http://ADDRESS:PORT"),
    ],
)
def test_malformed_proxy_is_refused_with_its_remedy(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        proxy(text)


def test_proxy_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="every bot could read") as refused:
        proxy("http://ann:hunter2@10.1.2.3:3128")

    assert "hunter2" not in str(refused.value)
