import ast
import ipaddress
from pathlib import Path

import pytest

from libs.core.config.destinations import destinations
from libs.docker_runner import entrypoints
from libs.notifications.destination import (
    DENIED_IPV4,
    DENIED_IPV6,
    MAIL_PORTS,
    DestinationRefused,
    NameUnresolved,
    Rules,
    Url,
)

GUARD = Path(entrypoints.__file__).parent / "guard" / "network_guard.py"


@pytest.mark.parametrize(
    ("text", "host", "port", "authority", "target"),
    [
        ("https://a.example/x?y=1#z", "a.example", 443, "a.example", "/x?y=1"),
        ("http://a.example", "a.example", 80, "a.example", "/"),
        ("http://A.example:8080/", "a.example", 8080, "a.example:8080", "/"),
        ("https://[2001:4860::1]:8443/p", "2001:4860::1", 8443, "[2001:4860::1]:8443", "/p"),
    ],
)
def test_url_is_divided(text: str, host: str, port: int, authority: str, target: str) -> None:
    url = Url.of(text)

    assert (url.host, url.port, url.authority, url.target) == (host, port, authority, target)


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        "a.example",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https:///path",
        "https://user:pw@a.example/",
        "https://user@a.example/",
        "https://a.example/x y",
        "https://a.example/\r\nHost: b",
        "https://a.example/\x00",
        "https://a.example:99999/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://ä.example/",
        "https://a.example/" + "x" * 3000,
    ],
)
def test_other_text_is_no_url_of_a_webhook(text: object) -> None:
    with pytest.raises(DestinationRefused):
        Url.of(text)


@pytest.mark.parametrize("network", [*DENIED_IPV4, *DENIED_IPV6])
def test_first_and_last_address_of_each_denied_network_is_refused(network: str) -> None:
    found = ipaddress.ip_network(network)

    assert Rules().refusal(found[0], 443) != ""
    assert Rules().refusal(found[-1], 443) != ""


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",  # NAT64 of 10.0.0.1
        "64:ff9b::169.254.169.254",
        "2002:a00:1::1",  # 6to4 of 10.0.0.1
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of a client at 10.0.0.1
        "::1",
        "::",
    ],
)
def test_private_address_behind_a_translator_is_refused(address: str) -> None:
    assert "private, local or reserved" in Rules().refusal(ipaddress.ip_address(address), 443)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "172.32.0.1", "11.0.0.0"])
def test_public_address_may_be_reached_but_at_ports_for_mail(address: str) -> None:
    assert Rules().refusal(ipaddress.ip_address(address), 8443) == ""
    assert all("mail" in Rules().refusal(ipaddress.ip_address(address), port) for port in MAIL_PORTS)


def test_operators_exceptions_count_with_their_ports() -> None:
    rules = Rules(destinations("10.1.2.3:8443, 10.8.0.0/16, [fd00::5]:443"))

    assert rules.refusal(ipaddress.ip_address("10.1.2.3"), 8443) == ""
    assert rules.refusal(ipaddress.ip_address("10.1.2.3"), 8444) != ""
    assert rules.refusal(ipaddress.ip_address("10.8.9.9"), 25) == ""
    assert rules.refusal(ipaddress.ip_address("10.9.0.0"), 443) != ""
    assert rules.refusal(ipaddress.ip_address("fd00::5"), 443) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "localhost", "[::1]"])
async def test_each_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises((DestinationRefused, NameUnresolved)):
        await Rules().addresses(Url.of(f"http://{host}:8080/"))


async def test_name_without_an_address_is_tried_again() -> None:
    with pytest.raises(NameUnresolved):
        await Rules().addresses(Url.of("https://no-such-host.invalid/"))


def test_denied_networks_are_those_of_bots() -> None:
    values: dict[str, object] = {}
    for node in ast.parse(GUARD.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue

    assert values["DENIED_IPV4"] == list(DENIED_IPV4)
    assert values["DENIED_IPV6"] == list(DENIED_IPV6)
    assert values["MAIL"] == MAIL_PORTS
