"""Finding the API server: the pod's own account first, KUBECONFIG next, else a message that says what is missing."""

import base64
import ssl
from pathlib import Path

import pytest
import yaml

from libs.autoscaler.access import find_access
from libs.autoscaler.errors import NoCluster

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


def kubeconfig(path: Path, user: dict[str, object], **cluster: object) -> dict[str, str]:
    document = {
        "current-context": "here",
        "contexts": [{"name": "there", "context": {}}, {"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/"} | cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return {"KUBECONFIG": str(path)}


def test_a_pod_uses_its_service_account_even_when_a_kubeconfig_is_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")

    access = find_access(IN_POD | kubeconfig(tmp_path / "config", {"token": "other"}), tmp_path)

    assert access.server == "https://10.0.0.1:6443"
    assert access.headers() == {"Authorization": "Bearer first"}


def test_a_service_account_token_that_the_cluster_replaced_is_used_at_once(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")
    access = find_access(IN_POD, tmp_path)

    (tmp_path / "token").write_text("second")

    assert access.headers() == {"Authorization": "Bearer second"}


def test_an_ipv6_address_of_the_api_server_is_put_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")

    assert find_access({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path).server == "https://[fd00::1]:443"


def test_a_kubeconfig_names_server_and_token_of_its_current_context(tmp_path: Path) -> None:
    access = find_access(kubeconfig(tmp_path / "config", {"token": "t"}), tmp_path)

    assert (access.server, access.headers()) == ("http://127.0.0.1:1", {"Authorization": "Bearer t"})


def test_a_token_file_is_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file")

    access = find_access(kubeconfig(tmp_path / "config", {"tokenFile": "secret"}), tmp_path)

    assert access.headers() == {"Authorization": "Bearer from-file"}


def test_certificates_are_checked_unless_the_kubeconfig_says_not_to(tmp_path: Path) -> None:
    https = {"server": "https://127.0.0.1:1"}

    strict = find_access(kubeconfig(tmp_path / "config", {"token": "t"}, **https), tmp_path).tls
    loose = find_access(
        kubeconfig(tmp_path / "config", {"token": "t"}, **https, **{"insecure-skip-tls-verify": True}), tmp_path
    ).tls

    assert strict is not None
    assert loose is not None
    assert (strict.verify_mode, loose.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"exec": {"command": "aws"}}, {}, r"'exec' is not supported.*kubectl create token"),
        ({"token": "t"}, {"server": "https://x", "certificate-authority": "gone.crt"}, r"FileNotFoundError.*gone\.crt"),
        (
            {"token": "t"},
            {"server": "https://x", "certificate-authority-data": base64.b64encode(b"no PEM").decode()},
            "cannot be used",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, user: dict[str, object], cluster: dict[str, object], message: str
) -> None:
    with pytest.raises(NoCluster, match=message):
        find_access(kubeconfig(tmp_path / "config", user, **cluster), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "contexts: 3", "a: b: c", "current-context: x\ncontexts: []"])
def test_a_kubeconfig_of_any_shape_gives_the_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)

    with pytest.raises(NoCluster, match="cannot be used"):
        find_access({"KUBECONFIG": str(tmp_path / "config")}, tmp_path)


def test_without_any_cluster_the_message_says_what_would_give_one(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="not in a Kubernetes pod and KUBECONFIG is not set"):
        find_access({}, tmp_path)


def test_a_pod_without_a_token_is_told_apart_from_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="automountServiceAccountToken"):
        find_access(IN_POD, tmp_path)
