import pytest

from libs.core.transport.peer_limits import PeerLimits, address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:5555", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5555", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:10.0.0.7]:5555", "10.0.0.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5555", "fe80::/64"),
        ("unix:", ""),
        ("unix:/run/a.sock", ""),
    ],
)
def test_peer_counts_by_its_address_or_ipv6_network(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_address_at_its_limit_is_refused_until_one_is_released() -> None:
    limits = PeerLimits(total=10, per_address=2)
    assert [limits.admit("a") for _ in range(2)] == [None, None]

    refusal = limits.admit("a")
    other = limits.admit("b")
    limits.release("a")

    assert refusal is not None
    assert "GRPC_MAX_WORKERS_PER_ADDRESS" in refusal
    assert other is None
    assert limits.admit("a") is None


def test_total_limits_all_addresses() -> None:
    limits = PeerLimits(total=2, per_address=2)
    assert [limits.admit(address) for address in ("a", "")] == [None, None]

    refusal = limits.admit("c")

    assert refusal is not None
    assert refusal.endswith("raise GRPC_MAX_WORKERS")
    limits.release("a")
    limits.release("")
    assert limits.open == 0
