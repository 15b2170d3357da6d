import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.errors import EgressRejected
from libs.docker_runner.executable import Network
from libs.docker_runner.sandbox.egress import MAX_ENTRIES, AllowedHost, egress_for, read, written


@pytest.mark.parametrize("config", [{}, {"egress": None}])
def test_bot_without_a_list_is_not_narrowed(config: dict[str, object]) -> None:
    assert egress_for(config) is None


def test_empty_list_allows_no_host_and_stays_one_as_a_label() -> None:
    hosts = egress_for({"egress": []})

    assert hosts == ()
    assert read(written(())) == ()


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_address"),
    [
        ("api.binance.com:443", "api.binance.com", 443, False),
        ("API.Binance.com.:9443", "api.binance.com", 9443, False),
        ("bücher.example:1", "xn--bcher-kva.example", 1, False),
        ("_svc.example:65535", "_svc.example", 65535, False),
        ("gateway:443", "gateway", 443, False),
        ("203.0.113.5:443", "203.0.113.5", 443, True),
        ("[2001:DB8::0001]:443", "2001:db8::1", 443, True),
    ],
)
def test_entry_becomes_a_host_in_its_canonical_form(entry: str, host: str, port: int, is_address: bool) -> None:
    assert egress_for({"egress": [entry]}) == (AllowedHost(host, port, is_address),)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("api.binance.com", "has no port"),
        ("api.binance.com:", "has no port"),
        ("api.binance.com:0", "has no port from 1 to 65535"),
        ("api.binance.com:65536", "has no port from 1 to 65535"),
        ("api.binance.com:4\uff143", "has no port from 1 to 65535"),
        ("api.binance.com:https", "has no port from 1 to 65535"),
        ("https://api.binance.com:443", "is a URL"),
        ("*.binance.com:443", "has a wildcard; list each host by its full name"),
        ("203.0.113.0/24:443", "is a network"),
        ("2001:db8::1:443", "has several colons"),
        ("[api.binance.com]:443", "has no IPv6 address between its brackets"),
        ("[2001:db8::1]443", "has no port from 1 to 65535"),
        (":443", "has no valid host name"),
        ("-a.example:443", "has no valid host name"),
        ("a..example:443", "has no valid host name"),
        ("a b.example:443", "has no valid host name"),
        ("a\n10.0.0.1 evil:443", "has no valid host name"),
        ("127.1:443", "has no valid host name"),
        ("2130706433:443", "has no valid host name"),
        ("0x7f000001:443", "has no valid host name"),
        (f"{'a' * 64}.example:443", "has no valid host name"),
        (f"{'a.' * 128}:443", "has no valid host name"),
        ("a," + "b:443", "has no valid host name"),
        (443, "is not text"),
        ({"$secret": "host"}, "is not text"),
    ],
)
def test_malformed_entry_is_refused_by_its_name_and_with_its_remedy(entry: object, reason: str) -> None:
    with pytest.raises(EgressRejected) as refused:
        egress_for({"egress": ["api.binance.com:443", entry]})

    assert refused.value.entry == entry
    assert reason in str(refused.value)
    assert repr(entry)[:100] in str(refused.value)


@pytest.mark.parametrize("value", ["api.binance.com:443", {"api.binance.com": 443}, True, 1])
def test_list_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(EgressRejected, match="must be a list of hosts"):
        egress_for({"egress": value})


def test_long_entry_is_shortened_in_the_refusal() -> None:
    with pytest.raises(EgressRejected) as refused:
        egress_for({"egress": ["x" * 10_000]})

    assert len(str(refused.value)) < 500


def test_list_of_the_longest_length_passes_and_a_longer_one_is_refused() -> None:
    entries = [f"h{number}.example:443" for number in range(MAX_ENTRIES)]

    assert len(egress_for({"egress": entries}) or ()) == MAX_ENTRIES
    with pytest.raises(EgressRejected, match="33 entries"):
        egress_for({"egress": [*entries, "one-more.example:443"]})


@pytest.mark.parametrize(
    ("network", "guard", "setting"),
    [(Network.HOST, True, "BOT_NETWORK=host"), (Network.BRIDGE, False, "BOT_METADATA_GUARD=false")],
)
def test_list_that_cannot_be_enforced_is_refused_with_the_setting(network: Network, guard: bool, setting: str) -> None:
    with pytest.raises(EgressRejected, match=setting):
        egress_for({"egress": ["api.binance.com:443"]}, network, guard=guard)


def test_list_of_a_bot_without_a_network_is_accepted() -> None:
    assert egress_for({"egress": ["a.example:1"]}, Network.NONE, guard=False) == (AllowedHost("a.example", 1),)


def test_order_and_repetition_of_entries_do_not_matter() -> None:
    assert egress_for({"egress": ["b.example:1", "a.example:1", "B.example:1"]}) == egress_for(
        {"egress": ["a.example:1", "b.example:1"]}
    )


@given(st.lists(st.sampled_from(["a.example:1", "[::1]:2", "203.0.113.5:3", "b:4"]), max_size=4))
def test_label_has_all_hosts(entries: list[str]) -> None:
    hosts = egress_for({"egress": entries})

    assert hosts is not None
    assert read(written(hosts)) == hosts


@given(st.text(max_size=40))
def test_foreign_label_opens_no_host_that_is_malformed(line: str) -> None:
    for host in read(line):
        assert read(str(host)) == (host,)
