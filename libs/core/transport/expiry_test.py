import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.config.connection_settings import MongoSettings, NatsSettings
from libs.core.config.transport_settings import TransportSettings
from libs.core.observability.metrics import registry
from libs.core.transport.expiry import CertificateInvalid, certificate_files_of, ends_at, not_after, watch_expiry
from tests.support.certificates import Authority
from tests.support.eventually import eventually

DAY = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("days", [1, 14, 3650, 20_000], ids=["day", "two weeks", "ten years", "after 2049"])
def test_end_of_a_certificate_is_that_of_its_validity(authority: Authority, days: int) -> None:
    file = authority.issue(f"for-{days}", "a.example", days=days).certificate

    end = not_after(ssl.PEM_cert_to_DER_cert(file.read_text()))

    assert end == pytest.approx(time.time() + days * DAY, abs=120)


def test_chain_ends_with_its_first_certificate_and_authorities_with_the_last(authority: Authority) -> None:
    short, long = (authority.issue(f"d{days}", "a.example", days=days).certificate.read_bytes() for days in (3, 30))

    chain = ends_at("TLS_CERT_FILE", long + short)
    authorities = ends_at("TLS_CA_FILE", short + long)

    assert chain == pytest.approx(time.time() + 3 * DAY, abs=120)
    assert authorities == pytest.approx(time.time() + 30 * DAY, abs=120)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_certificate(content: bytes) -> None:
    with pytest.raises(CertificateInvalid):
        not_after(content)


def test_cut_off_certificate_is_none(authority: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())

    with pytest.raises(CertificateInvalid):
        not_after(der[:60])


@dataclass
class Settings:
    mongo: MongoSettings
    nats: NatsSettings
    transport: TransportSettings


def test_files_with_certificates_are_found_in_all_groups_of_settings() -> None:
    settings = Settings(
        MongoSettings(tls_ca_file="/mongo-ca"),
        NatsSettings(),
        TransportSettings(authorities_file="/ca", certificate_file="/cert", key_file="/key"),
    )

    assert certificate_files_of(settings) == {
        "MONGO_TLS_CA_FILE": Path("/mongo-ca"),
        "TLS_CA_FILE": Path("/ca"),
        "TLS_CERT_FILE": Path("/cert"),
    }


async def test_end_is_exported_and_an_unreadable_file_hides_no_other(authority: Authority, tmp_path: Path) -> None:
    files = {
        "A_CA_FILE": tmp_path / "absent",
        "B_CERT_FILE": authority.issue("exported", "a.example", days=5).certificate,
    }
    watching = asyncio.create_task(watch_expiry(files))

    def exported() -> float | None:
        return registry.get_sample_value("runtime_certificate_not_after_seconds", {"setting": "B_CERT_FILE"})

    try:
        await eventually(exported)
    finally:
        watching.cancel()
        await asyncio.wait([watching])

    assert exported() == pytest.approx(time.time() + 5 * DAY, abs=120)
