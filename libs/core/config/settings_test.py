import importlib
import pkgutil
import re

import pytest
from pydantic import SecretStr, ValidationError

from libs.core import config
from libs.core.config.connection_settings import MongoSettings, NatsSettings, StorageSettings
from libs.core.config.container_settings import ContainerSettings
from libs.core.config.coordination_settings import (
    AutoscalerSettings,
    BatchSettings,
    CoordinationSettings,
    IdentitySettings,
    LeaseSettings,
    PartitionSettings,
    ScanSettings,
)
from libs.core.config.groups import GROUPS
from libs.core.config.image_settings import ImageSettings
from libs.core.config.process_settings import HttpSettings, LogSettings
from libs.core.config.settings_loader import Group, SettingsError, load, named_of, rows
from libs.core.process.service import BOT_RUNNER, SERVICES, ServiceDefinition

KEYS = {"MINIO_ACCESS_KEY_ID": "key", "MINIO_SECRET_ACCESS_KEY": "secret"}


def default_of(variable: str, service: ServiceDefinition = BOT_RUNNER) -> str:
    return next(row.default for row in rows(GROUPS, service) if row.name == variable)


def coordination(environ: dict[str, str]) -> CoordinationSettings:
    return load(CoordinationSettings, {}, environ, BOT_RUNNER)


def test_every_group_of_settings_is_listed() -> None:
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(config.__path__, "libs.core.config.")
        if module.name.endswith("_settings")
    ]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    assert {group for group in found if issubclass(group, Group) and group is not Group} == set(GROUPS)


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        ("MASTER_SERVICE", "bot-runner-master"),
        ("MASTER_HOST", "localhost"),
        ("NATS_URL", "unset"),
        ("MINIO_USE_SSL", "false"),
        ("MINIO_BOTS_BUCKET", "bots"),
        ("MINIO_LOGS_BUCKET", "logs"),
        ("MINIO_RESULTS_BUCKET", "results"),
        ("TEMP_DIR", "/tmp/runtime"),
        ("MEMORY_LIMIT_MB", "512"),
        ("CPU_SHARES", "1024"),
        ("NAMESPACE", "default"),
        ("DEPLOYMENT_NAME", "runtime-worker"),
        ("MIN_REPLICAS", "3"),
        ("MAX_REPLICAS", "4"),
        ("BATCH_SIZE", "5"),
        ("BATCH_TIMEOUT", "300"),
        ("BATCH_INTERVAL", "10"),
        ("MAX_RETRIES", "3"),
        ("MAX_SEGMENT", "16"),
        ("MODE", "cluster"),
        ("HTTP_PORT", "8080"),
        ("GRPC_PORT", "50051"),
        ("MAX_BOTS_PER_PARTITION", "10"),
    ],
)
def test_defaults_are_those_that_other_programs_rely_on(variable: str, default: str) -> None:
    assert default_of(variable) == default


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_each_service_has_its_own_port_master_and_cap(service: ServiceDefinition) -> None:
    assert default_of("GRPC_PORT", service) == str(service.grpc_port)
    assert default_of("MASTER_SERVICE", service) == f"{service.name}-master"
    assert default_of(service.max_per_partition_env, service) == "10"


@pytest.mark.parametrize(
    ("variable", "alias"),
    [
        ("MINIO_ACCESS_KEY_ID", "MINIO_ACCESS_KEY"),
        ("MINIO_SECRET_ACCESS_KEY", "MINIO_SECRET_KEY"),
        ("MINIO_USE_SSL", "MINIO_SSL"),
        ("MINIO_BOTS_BUCKET", "MINIO_CODE_BUCKET"),
        ("MINIO_RESULTS_BUCKET", "MINIO_BACKTESTS_BUCKET"),
        ("MEMORY_LIMIT_MB", "BOT_MEMORY_LIMIT_MB"),
        ("CPU_SHARES", "BOT_CPU_SHARES"),
    ],
)
def test_older_names_are_still_read(variable: str, alias: str) -> None:
    assert next(row.aliases for row in rows(GROUPS, BOT_RUNNER) if row.name == variable) == (alias,)


def test_the_schedulers_cap_has_an_older_name_and_the_others_have_none() -> None:
    environ = {"MAX_BOT_SCHEDULE_PER_PARTITION": "4"}

    caps = {s.name: load(PartitionSettings, {}, environ, s).max_per_partition for s in SERVICES}

    assert caps == {"bot-runner": 10, "backtest-runner": 10, "bot-scheduler": 4}


def test_the_flags_are_those_of_the_command_line() -> None:
    flags = {row.flag for row in rows(GROUPS, BOT_RUNNER) if row.flag}

    assert flags == {"--max-segment", "--mode", "--mongo-uri", "--worker-id"}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_setting_has_description_and_times_have_unit(group: type[Group]) -> None:
    for name, field in group.model_fields.items():
        assert field.description, name
        assert named_of(field).unit == ("seconds" if name.endswith("_seconds") else named_of(field).unit), name


def test_a_worker_is_named_after_its_host_and_process() -> None:
    assert re.fullmatch(r".+-\d+", load(IdentitySettings, {}, {}).worker_id)


def test_mongodb_credentials_do_not_show() -> None:
    wrong = "mysql://me:geheim@host"
    with pytest.raises(SettingsError) as caught:
        load(MongoSettings, {}, {"MONGO_URI": wrong})

    assert "MONGO_URI=(secret)" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(MongoSettings(uri=SecretStr("mongodb://me:geheim@host")))


def test_storage_needs_its_keys_and_an_endpoint_without_scheme() -> None:
    with pytest.raises(SettingsError) as caught:
        load(StorageSettings, {}, {"MINIO_ENDPOINT": "http://localhost:9000"})

    assert len(caught.value.problems) == 3
    assert "MINIO_USE_SSL" in caught.value.problems[0]


@pytest.mark.parametrize("endpoint", ["localhost", "minio.example.com:9000", "[::1]:9000", "10.0.0.1:1"])
def test_an_endpoint_is_a_host_with_or_without_port(endpoint: str) -> None:
    assert load(StorageSettings, {}, KEYS | {"MINIO_ENDPOINT": endpoint}).endpoint == endpoint


@pytest.mark.parametrize(
    "url", ["nats://a:4222", "a:4222", "tls://u:p@a.example:4222,nats://b", "nats://token@a:4222", "wss://a:443/"]
)
def test_nats_may_be_a_list_of_servers(url: str) -> None:
    assert load(NatsSettings, {}, {"NATS_URL": url}).url == url


def test_a_nats_url_of_another_kind_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load(NatsSettings, {}, {"NATS_URL": "http://u:geheim@a:80/x"})

    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(NatsSettings(url="nats://u:geheim@a"))


def test_a_lease_survives_one_failed_renewal() -> None:
    with pytest.raises(SettingsError, match="LEASE_RENEW_SECONDS=2 is more than half of LEASE_SECONDS=3"):
        load(LeaseSettings, {}, {"LEASE_SECONDS": "3"})


@pytest.mark.parametrize(("life", "renew"), [("1", "0.1"), ("1.4", "0.1"), ("2", "0.7"), ("2.5", "1.1")])
def test_lease_that_is_too_short_for_its_renewals_is_refused(life: str, renew: str) -> None:
    with pytest.raises(SettingsError, match="LEASE_SECONDS"):
        load(LeaseSettings, {}, {"LEASE_SECONDS": life, "LEASE_RENEW_SECONDS": renew})


def test_lease_that_is_too_short_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(SettingsError, match=r"LEASE_SECONDS=2 is too short .*raise it to 2\.2 or more"):
        load(LeaseSettings, {}, {"LEASE_SECONDS": "2", "LEASE_RENEW_SECONDS": "0.7"})

    load(LeaseSettings, {}, {"LEASE_SECONDS": "2.2", "LEASE_RENEW_SECONDS": "0.7"})


@pytest.mark.parametrize(("life", "renew"), [("1.5", "0.1"), ("2", "0.5"), ("3", "1.5"), ("5", "2"), ("300", "100")])
def test_lease_that_leaves_time_for_its_renewals_is_taken(life: str, renew: str) -> None:
    taken = load(LeaseSettings, {}, {"LEASE_SECONDS": life, "LEASE_RENEW_SECONDS": renew})

    assert (taken.life_seconds, taken.renew_interval_seconds) == (float(life), float(renew))


def test_death_timeout_below_two_heartbeats_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"HEARTBEAT_INTERVAL_SECONDS=3 .* DEATH_TIMEOUT_SECONDS=5"):
        coordination({"HEARTBEAT_INTERVAL_SECONDS": "3"})


def test_replica_bounds_are_in_order() -> None:
    with pytest.raises(SettingsError, match="MIN_REPLICAS=9 is above MAX_REPLICAS=4"):
        load(AutoscalerSettings, {}, {"MIN_REPLICAS": "9"})


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "bot-runner-master:50051"),
        ({"MASTER_SERVICE": "m"}, "m:50051"),
        ({"MASTER_SERVICE": "m:7"}, "m:7"),
        ({"MASTER_SERVICE": "m", "GRPC_PORT": "8"}, "m:8"),
        ({"MODE": "standalone"}, "localhost:50051"),
        ({"MODE": "standalone", "MASTER_HOST": "h:9", "MASTER_SERVICE": "m"}, "h:9"),
        ({"MASTER_SERVICE": "::1"}, "[::1]:50051"),
        ({"MASTER_SERVICE": "[::1]"}, "[::1]:50051"),
        ({"MASTER_SERVICE": "[::1]:7"}, "[::1]:7"),
    ],
)
def test_a_worker_dials_the_master_of_its_mode(environ: dict[str, str], address: str) -> None:
    assert coordination(environ).master_addresses == [address]


def test_a_worker_dials_each_master_of_a_list() -> None:
    dialled = coordination({"MASTER_SERVICE": "a,b:7,[::1]"}).master_addresses

    assert dialled == ["a:50051", "b:7", "[::1]:50051"]


@pytest.mark.parametrize("value", [",", "a,", ",a", "a,,b", "a, b"])
def test_a_list_of_masters_with_a_gap_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="MASTER_SERVICE"):
        coordination({"MASTER_SERVICE": value})


def test_configured_port_differs_from_default() -> None:
    assert not load(HttpSettings, {}, {}).port_was_chosen
    assert load(HttpSettings, {}, {"HTTP_PORT": "8080"}).port_was_chosen


def test_changes_without_an_event_are_found_within_ten_seconds() -> None:
    assert ScanSettings().scan_interval_seconds <= 10


def test_a_relative_temp_dir_is_refused() -> None:
    with pytest.raises(SettingsError, match="TEMP_DIR='tmp' must be an absolute path"):
        load(ContainerSettings, {}, {"TEMP_DIR": "tmp"})


def test_registry_user_and_password_come_together() -> None:
    with pytest.raises(SettingsError, match="REGISTRY_USERNAME and REGISTRY_PASSWORD"):
        load(ImageSettings, {}, {"REGISTRY_USERNAME": "me"})


def test_levels_may_be_upper_case() -> None:
    assert load(LogSettings, {}, {"LOG_LEVEL": "WARNING"}).level == "warning"


def test_durations_are_plain_seconds() -> None:
    assert load(BatchSettings, {}, {"BATCH_TIMEOUT": "90"}).timeout_seconds == 90
    with pytest.raises(SettingsError, match="BATCH_TIMEOUT='5m' must be a number of seconds"):
        load(BatchSettings, {}, {"BATCH_TIMEOUT": "5m"})


def test_settings_do_not_change_and_know_their_names() -> None:
    group = PartitionSettings()
    with pytest.raises(ValidationError):
        group.max_per_partition = 5
    with pytest.raises(ValidationError):
        PartitionSettings(max_partition=5)  # type: ignore[call-arg]
