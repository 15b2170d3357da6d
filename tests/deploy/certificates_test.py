"""deploy/compose/certificates.sh, with the program that containers have, and what the runtime reads of its files."""

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from libs.core.process.service import SERVICES
from libs.core.transport.certificates import certificate_files
from libs.core.transport.security import role_name
from tests.deploy.manifests import ROOT

SCRIPT = ROOT / "deploy" / "compose" / "certificates.sh"
NAMES = {
    f"{service.name}-{role}": f"{role}.{service.name}.the0" for service in SERVICES for role in ("master", "worker")
}
FOLDER = "bot-runner-worker"


class Certificates:
    """The folders that volumes are in containers."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority"
        self.roles = folder / "tls"
        for made in (self.authority, self.roles):
            made.mkdir()

    def run(self, *arguments: str, **environment: str) -> str:
        """Run the script and return what it prints."""
        owner = f"{os.getuid()}:{os.getgid()}"
        folders = {"AUTHORITY_FOLDER": str(self.authority), "ROLES_FOLDER": str(self.roles), "OWNER": owner}
        process = subprocess.run(
            ["sh", SCRIPT, *arguments],
            env={"PATH": "/usr/bin:/bin", **folders, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return process.stderr

    def current(self, folder: str) -> Path:
        return self.roles / folder / "current"

    def content(self) -> Mapping[str, bytes]:
        """All certificates, by their folder."""
        return {folder: (self.current(folder) / "tls.crt").read_bytes() for folder in NAMES}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    made.run()
    return made


def openssl(*arguments: str | Path) -> str:
    found = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return found.stdout


def test_each_role_has_a_certificate_of_its_name_that_the_runtime_accepts(certificates: Certificates) -> None:
    for folder, name in NAMES.items():
        place = certificates.current(folder)
        names = openssl("x509", "-in", place / "tls.crt", "-noout", "-ext", "subjectAltName")

        assert names.split()[-1] == f"DNS:{name}"
        certificate_files(("CA", place / "ca.crt"), ("CERT", place / "tls.crt"), ("KEY", place / "tls.key"))
        openssl("verify", "-x509_strict", "-CAfile", certificates.authority / "ca.crt", place / "tls.crt")
    assert NAMES["bot-runner-master"] == role_name("master", "bot-runner")


def test_files_are_their_owners_alone_and_the_authoritys_key_is_in_no_role(certificates: Certificates) -> None:
    files = [path for path in certificates.roles.rglob("*") if path.is_file() and not path.is_symlink()]
    key = (certificates.authority / "ca.key").read_bytes()

    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((certificates.authority / "ca.key").stat().st_mode) == 0o600
    assert not any(path.read_bytes() == key for path in files)
    # Nothing is left of the work.
    assert len(files) == 3 * len(NAMES)


def test_second_run_changes_nothing(certificates: Certificates) -> None:
    before = certificates.content()

    assert certificates.run() == ""
    assert certificates.content() == before


def test_renewal_replaces_all_certificates_and_keeps_the_authority(certificates: Certificates) -> None:
    before, authority = certificates.content(), (certificates.authority / "ca.crt").read_bytes()

    certificates.run("renew")
    after = certificates.content()

    assert all(after[folder] != before[folder] for folder in NAMES)
    assert (certificates.authority / "ca.crt").read_bytes() == authority
    assert [len(list((certificates.roles / folder).glob("made.*"))) for folder in NAMES] == [1] * len(NAMES)


def test_certificates_that_end_soon_are_replaced(certificates: Certificates) -> None:
    certificates.run("renew", CERTIFICATE_DAYS="59")
    ending = certificates.content()

    certificates.run(CERTIFICATE_DAYS="61")
    lasting = certificates.content()
    certificates.run(CERTIFICATE_DAYS="61")

    assert all(lasting[folder] != ending[folder] for folder in NAMES)
    assert certificates.content() == lasting


@pytest.mark.parametrize("lost", ["tls.key", "tls.crt", "ca.crt"])
def test_folder_that_lacks_a_file_is_made_again_and_no_other(certificates: Certificates, lost: str) -> None:
    before = certificates.content()
    (certificates.current(FOLDER) / lost).unlink()

    certificates.run()
    after = certificates.content()

    assert {folder for folder in NAMES if after[folder] != before[folder]} == {FOLDER}


def test_key_of_another_certificate_is_replaced(certificates: Certificates) -> None:
    other = certificates.current("bot-runner-master") / "tls.key"
    (certificates.current(FOLDER) / "tls.key").write_bytes(other.read_bytes())

    assert certificates.run() == "certificates: made the certificate of worker.bot-runner.the0\n"


def test_interrupted_start_of_an_authority_is_repaired_with_all_that_it_signed(certificates: Certificates) -> None:
    before = certificates.content()
    (certificates.authority / "ca.crt").unlink()

    certificates.run()
    after = certificates.content()

    assert all(after[folder] != before[folder] for folder in NAMES)
    openssl("verify", "-CAfile", certificates.authority / "ca.crt", certificates.current(FOLDER) / "tls.crt")
