"""Where the API server is found, how a log-in is made and renewed, and what a server that misbehaves leads to."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.core.kubernetes.api_server import ApiServer, find_cluster, load_configuration
from libs.core.kubernetes.errors import ClusterForbids, ClusterUnavailable, NoCluster
from tests.support.eventually import eventually
from tests.support.fakes.fake_kubernetes import TOKEN, FakeKubernetes

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
SCALE = "/apis/apps/v1/namespaces/bots/deployments/bot-runner-worker/scale"
EXEC_API = "client.authentication.k8s.io/v1"


@pytest.fixture
async def cluster() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(replicas=3) as fake:
        yield fake


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with server.crt, client.crt and their keys, each signed by itself."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in {"server": "/CN=127.0.0.1", "client": "/CN=tester"}.items():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        identity = ["-subj", subject, "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        files = ["-keyout", f"{folder / name}.key", "-out", f"{folder / name}.crt"]
        subprocess.run([*command, *identity, *files], check=True, capture_output=True)
    return folder


@pytest.fixture
async def cluster_of_pod(certificates: Path) -> AsyncIterator[FakeKubernetes]:
    """A server with TLS, as pods see it."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    fake = FakeKubernetes(replicas=3)
    await fake.start(tls)
    yield fake
    await fake.stop()


@pytest.fixture
def service_account(tmp_path: Path, certificates: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    (folder / "ca.crt").write_bytes((certificates / "server.crt").read_bytes())
    return folder


def in_pod(cluster: FakeKubernetes) -> dict[str, str]:
    host, port = cluster.url.removeprefix("https://").split(":")
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}


async def status(environ: dict[str, str], service_account: Path = Path("/nowhere"), timeout_seconds: float = 30) -> int:
    server = ApiServer(environ, timeout_seconds, service_account)
    try:
        return (await server.call("GET", SCALE)).status
    finally:
        server.close()


# Where the server is.


def test_message_without_cluster_names_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="not in a Kubernetes pod and KUBECONFIG is not set"):
        find_cluster({}, tmp_path)


def test_pod_without_token_differs_from_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="automountServiceAccountToken"):
        find_cluster(IN_POD, tmp_path)


def test_service_account_is_preferred_to_kubeconfig(tmp_path: Path, service_account: Path) -> None:
    path = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "config", {"server": "http://other"})

    configuration = load_configuration(IN_POD | {"KUBECONFIG": str(path)}, service_account)

    assert configuration.host == "https://10.0.0.1:6443"
    assert configuration.get_api_key_with_prefix("BearerToken") == f"bearer {TOKEN}"


def test_ipv6_address_of_server_is_put_in_brackets(service_account: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1"}

    assert load_configuration(environ, service_account).host == "https://[fd00::1]:443"


def test_pod_whose_certificate_is_missing_is_named(service_account: Path) -> None:
    (service_account / "ca.crt").unlink()

    with pytest.raises(NoCluster, match=r"service account in .* cannot be used"):
        load_configuration(IN_POD, service_account)


@pytest.mark.parametrize("skip", [True, False])
def test_certificates_are_checked_unless_kubeconfig_disables_it(tmp_path: Path, skip: bool) -> None:
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": skip}
    path = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "config", cluster)

    assert load_configuration({"KUBECONFIG": str(path)}, tmp_path).verify_ssl is not skip


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"server": "https://x", "certificate-authority": "gone.crt"}, r"gone\.crt"),
        (
            {"server": "https://x", "certificate-authority-data": base64.b64encode(b"no PEM").decode()},
            "SSLError",
        ),
    ],
)
def test_kubeconfig_that_cannot_be_used_is_named_with_reason(
    tmp_path: Path, cluster: dict[str, object], message: str
) -> None:
    path = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "config", cluster)

    with pytest.raises(NoCluster, match=rf"KUBECONFIG .* cannot be used: .*{message}"):
        load_configuration({"KUBECONFIG": str(path)}, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "contexts: 3", "a: b: c", "current-context: x\ncontexts: []", "3"])
def test_kubeconfig_of_any_shape_gives_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)

    with pytest.raises(NoCluster, match="cannot be used"):
        load_configuration({"KUBECONFIG": str(tmp_path / "config")}, tmp_path)


def test_kubeconfig_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match=r"KUBECONFIG .*/gone cannot be used"):
        load_configuration({"KUBECONFIG": str(tmp_path / "gone")}, tmp_path)


def test_no_cluster_means_that_sdk_is_not_imported() -> None:
    code = (
        "import asyncio, sys\n"
        "from libs.autoscaler.kubernetes import KubernetesWorkers\n"
        "from libs.core.kubernetes.errors import NoCluster\n"
        "try:\n"
        "    asyncio.run(KubernetesWorkers('n', 'd', {}).scale())\n"
        "except NoCluster:\n"
        "    print('kubernetes' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)

    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_first_calls_at_the_same_time_all_find_the_sdk(tmp_path: Path) -> None:
    path = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "config", {"server": "http://127.0.0.1:1"})
    code = (
        "import asyncio, importlib.abc, sys, time\n"
        "from libs.core.kubernetes.api_server import ApiServer\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.startswith('kubernetes.') and '.models.' not in name:\n"
        "            time.sleep(0.02)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "async def call(number):\n"
        "    await asyncio.sleep(0.03 * number)\n"
        f"    await ApiServer({{'KUBECONFIG': {str(path)!r}}}, 20).call('GET', '/')\n"
        "async def main():\n"
        "    ends = await asyncio.gather(*map(call, range(12)), return_exceptions=True)\n"
        "    print({type(end).__name__ for end in ends})\n"
        "asyncio.run(main())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE, text=True, timeout=120
    )

    assert ran.stdout == "{'ClusterUnavailable'}\n"


# Log-ins.


async def test_pod_proves_itself_by_its_token(cluster_of_pod: FakeKubernetes, service_account: Path) -> None:
    assert await status(in_pod(cluster_of_pod), service_account) == 200


async def test_token_that_cluster_replaced_is_used_at_once(
    cluster_of_pod: FakeKubernetes, service_account: Path
) -> None:
    server = ApiServer(in_pod(cluster_of_pod), 30, service_account)
    first = await server.call("GET", SCALE)

    cluster_of_pod.token = "second"
    (service_account / "token").write_text("second")
    second = await server.call("GET", SCALE)
    server.close()

    assert (first.status, second.status) == (200, 200)


async def test_token_that_expired_for_good_is_refused_until_there_is_another(
    cluster_of_pod: FakeKubernetes, service_account: Path
) -> None:
    server = ApiServer(in_pod(cluster_of_pod), 30, service_account)
    await server.call("GET", SCALE)

    cluster_of_pod.token = "second"
    with pytest.raises(ClusterForbids, match="rejects the token"):
        await server.call("GET", SCALE)
    (service_account / "token").write_text("second")
    answer = await server.call("GET", SCALE)
    server.close()

    assert answer.status == 200


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n"])
async def test_token_file_is_found_beside_kubeconfig(cluster: FakeKubernetes, tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    path = cluster.kubeconfig(tmp_path / "config", user={"tokenFile": "secret"})

    assert await status({"KUBECONFIG": str(path)}) == 200


async def test_command_of_kubeconfig_logs_in(cluster: FakeKubernetes, tmp_path: Path) -> None:
    path = cluster.kubeconfig(tmp_path / "config", user=log_in_by(credential(TOKEN)))

    assert await status({"KUBECONFIG": str(path)}) == 200


async def test_command_is_called_again_when_its_token_expires(cluster: FakeKubernetes, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text(credential("first", expirationTimestamp="2020-01-01T00:00:00Z"))
    user = {"exec": {"apiVersion": EXEC_API, "command": "cat", "args": [str(answer)]}}
    path = cluster.kubeconfig(tmp_path / "config", user=user)
    server = ApiServer({"KUBECONFIG": str(path)}, 30)
    cluster.token = "first"
    first = await server.call("GET", SCALE)

    cluster.token = "second"
    answer.write_text(credential("second"))
    second = await server.call("GET", SCALE)
    server.close()

    assert (first.status, second.status) == (200, 200)


async def test_command_that_fails_is_refused_and_its_error_is_logged(
    cluster: FakeKubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = {"exec": {"apiVersion": EXEC_API, "command": "sh", "args": ["-c", "echo no session >&2; exit 1"]}}
    path = cluster.kubeconfig(tmp_path / "config", user=user)

    with pytest.raises(ClusterForbids, match="failing login command is logged"):
        await status({"KUBECONFIG": str(path)})

    assert "no session" in caplog.text


def test_command_that_hangs_does_not_keep_process_from_ending(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": EXEC_API, "command": "sh", "args": ["-c", "echo $$ >pid; exec sleep 600"]}}
    path = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "config", {"server": "http://127.0.0.1:1"}, user)
    code = (
        "import asyncio, pathlib\n"
        "from libs.core.kubernetes.api_server import ApiServer\n"
        "async def main():\n"
        f"    server = ApiServer({{'KUBECONFIG': {str(path)!r}}}, 5)\n"
        "    call = asyncio.create_task(server.call('GET', '/'))\n"
        f"    while not (pid := pathlib.Path({str(tmp_path / 'pid')!r})).exists() or not pid.read_text():\n"
        "        await asyncio.sleep(0.01)\n"
        "    call.cancel()\n"
        "    await asyncio.gather(call, return_exceptions=True)\n"
        "asyncio.run(main())\n"
        "print('ended')\n"
    )
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE, text=True, timeout=50
        )
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    assert (ran.returncode, ran.stdout) == (0, "ended\n")


@pytest.mark.parametrize("trusted", [True, False])
async def test_both_sides_prove_themselves_by_certificate(tmp_path: Path, certificates: Path, trusted: bool) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "client.crt"))
    tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    cluster = FakeKubernetes(replicas=3)
    await cluster.start(tls)
    authority = str(certificates / ("server.crt" if trusted else "client.crt"))
    names = {
        f"client-{kind}": str(certificates / f"client.{end}") for kind, end in (("certificate", "crt"), ("key", "key"))
    }
    path = cluster.kubeconfig(tmp_path / "config", {"certificate-authority": authority}, {"token": TOKEN} | names)
    try:
        if trusted:
            assert await status({"KUBECONFIG": str(path)}) == 200
        else:
            with pytest.raises(ClusterUnavailable, match="certificate verify failed"):
                await status({"KUBECONFIG": str(path)})
    finally:
        await cluster.stop()


# The way there.


async def test_proxy_of_kubeconfig_is_used(cluster: FakeKubernetes, tmp_path: Path) -> None:
    behind = {"server": "http://api.example.invalid:6443", "proxy-url": cluster.url}
    path = cluster.kubeconfig(tmp_path / "config", behind)

    assert await status({"KUBECONFIG": str(path)}) == 200
    assert cluster.calls == [("get", "deployments/scale")]


async def test_server_that_hangs_is_given_up_after_limit(cluster: FakeKubernetes, tmp_path: Path) -> None:
    cluster.hangs = True
    path = cluster.kubeconfig(tmp_path / "config")
    begun = asyncio.get_running_loop().time()
    server = ApiServer({"KUBECONFIG": str(path)}, timeout_seconds=1)

    # More often than there are threads: a call that was given up frees its own.
    for _ in range(4):
        with pytest.raises(ClusterUnavailable, match="does not answer"):
            await server.call("GET", SCALE)
    took = asyncio.get_running_loop().time() - begun
    cluster.hangs = False

    async def answers() -> bool:
        return (await server.call("GET", SCALE)).status == 200

    await eventually(answers)
    server.close()
    assert 4 <= took < 40


def log_in_by(output: str) -> dict[str, object]:
    return {"exec": {"apiVersion": EXEC_API, "command": "echo", "args": [output]}}


def credential(token: str, **fields: str) -> str:
    document = {"apiVersion": EXEC_API, "kind": "ExecCredential", "status": {"token": token} | fields}
    return json.dumps(document)


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
