from pathlib import Path

import pytest

from libs.core.transport.certificates import Certificates, certificate_files
from libs.core.transport.watched_files import FileRejected, WatchedFiles
from tests.support.certificates import Authority, Files


def read(files: Files) -> WatchedFiles[Certificates]:
    return certificate_files(("CA", files.authority), ("CERT", files.certificate), ("KEY", files.key))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_certificate_and_key_that_belong_together_are_read(authority: Authority) -> None:
    files = authority.issue("a", "a.example")

    found = read(files).value

    assert found == Certificates(files.authority.read_bytes(), files.certificate.read_bytes(), files.key.read_bytes())
    assert "PRIVATE" not in repr(found)


def test_key_of_another_certificate_is_refused(authority: Authority) -> None:
    first, second = authority.issue("first", "a.example"), authority.issue("second", "a.example")

    with pytest.raises(FileRejected, match="CERT and KEY: they are no PEM certificate"):
        read(Files(first.authority, first.certificate, second.key))


def test_half_replaced_pair_leaves_the_former_one_in_use(authority: Authority) -> None:
    files, later = authority.issue("old", "a.example"), authority.issue("new", "a.example")
    watched = read(files)
    former = watched.value

    files.key.write_bytes(later.key.read_bytes())
    half = watched.value
    files.certificate.write_bytes(later.certificate.read_bytes())

    assert half == former
    assert watched.value.chain == later.certificate.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authority_without_a_certificate_is_refused(authority: Authority, tmp_path: Path, content: bytes) -> None:
    files = authority.issue("b", "b.example")
    empty = tmp_path / "ca"
    empty.write_bytes(content)

    with pytest.raises(FileRejected, match="CA: it has no valid PEM certificates"):
        read(Files(empty, files.certificate, files.key))
