"""What an operator sets is what the runner gets."""

import pytest
from pydantic import SecretStr

from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.image_settings import ImageSettings
from libs.core.config.secret_settings import SecretSettings
from libs.docker_runner.executable import Network, NetworkLimits
from libs.docker_runner.settings import Registry, RunnerSettings
from libs.docker_runner.worker.from_settings import runner_settings


def made_of(
    containers: ContainerSettings | None = None,
    maxima: MaximaSettings | None = None,
    images: ImageSettings | None = None,
) -> RunnerSettings:
    return runner_settings(
        containers or ContainerSettings(), maxima or MaximaSettings(), images or ImageSettings(), SecretSettings()
    )


@pytest.mark.parametrize("network", ["bridge", "none", "host"])
def test_every_network_that_can_be_set_is_one_that_bots_get(network: str) -> None:
    settings = made_of(ContainerSettings.model_validate({"network": network}))
    assert settings.placement("python3.11").network is Network(network)


def test_bots_are_guarded_and_in_the_engines_own_runtime_unless_it_is_set_otherwise() -> None:
    usual, set_otherwise = made_of(), made_of(ContainerSettings(metadata_guard=False, runtime="runsc"))
    assert (usual.metadata_guard, usual.placement("nodejs20").container_runtime) == (True, None)
    assert (set_otherwise.metadata_guard, set_otherwise.placement("nodejs20").container_runtime) == (False, "runsc")


def test_bots_reach_private_destinations_that_are_set() -> None:
    allowed = made_of(ContainerSettings.model_validate({"egress_allow": "10.1.2.3:8443,10.8.0.0/16"})).egress_allow
    assert [str(destination) for destination in allowed] == ["10.1.2.3/32:8443", "10.8.0.0/16"]
    assert made_of().egress_allow == ()


def test_the_defaults_of_network_limits_are_the_runners_own() -> None:
    assert made_of().network_limits == NetworkLimits()
    named = {"connections": 1, "new_connections_per_second": 2, "packets_per_second": 30, "sent_mbit_per_second": 4}
    named["received_mbit_per_second"] = 8
    assert made_of(ContainerSettings.model_validate(named)).network_limits == NetworkLimits(
        1, 2, 30, 500_000, 1_000_000
    )


def test_a_default_above_the_maximum_may_be_asked_for() -> None:
    settings = made_of(ContainerSettings(memory_limit_mb=4096), MaximaSettings(memory_mb=1024))
    assert settings.maxima.memory_mb == 4096


def test_credentials_are_for_their_registry_and_docker_hub_when_none_is_named() -> None:
    images = ImageSettings(registry_username="u", registry_password=SecretStr("p"))
    assert made_of().registry is None
    assert made_of(images=images).registry == Registry("", "u", "p")
    assert made_of(images=images.model_copy(update={"registry_server": "ghcr.io"})).registry == Registry(
        "ghcr.io", "u", "p"
    )


def test_proxy_of_bots_is_open_beside_other_destinations() -> None:
    set_up = {"egress_allow": "10.8.0.0/16", "http_proxy": "http://10.1.2.3:3128", "no_proxy": "localhost"}

    settings = made_of(ContainerSettings.model_validate(set_up))

    assert [str(destination) for destination in settings.egress_allow] == ["10.8.0.0/16", "10.1.2.3/32:3128"]
    assert (settings.http_proxy, settings.no_proxy) == ("http://10.1.2.3:3128", "localhost")
    assert (made_of().http_proxy, made_of().no_proxy) == ("", "")
