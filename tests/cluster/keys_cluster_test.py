from pathlib import Path

import pytest

from tests.cluster.keys import ADMIN, CLIENTS, kubeconfig, make_keys
from tools.debian.command import run_command

# Only where a cluster can be there is OpenSSL for sure.
pytestmark = pytest.mark.usefixtures("cluster")


async def test_every_certificate_holds_by_strict_rules(tmp_path: Path) -> None:
    await make_keys(tmp_path)

    for name in ["kube-apiserver", *(client.file for client in CLIENTS)]:
        await run_command(
            ["openssl", "verify", "-x509_strict", "-CAfile", f"{tmp_path}/ca.crt", f"{tmp_path}/{name}.crt"],
            within_seconds=60,
        )


async def test_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    await make_keys(tmp_path)

    text = kubeconfig(tmp_path, ADMIN, "https://127.0.0.1:1")

    assert str(tmp_path) not in text
