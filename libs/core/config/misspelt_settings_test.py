"""Detection of misspelt settings."""

import pytest

from libs.core.config.misspelt_settings import known_variables, misspelt


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("MEMORY_LIMITMB", "MEMORY_LIMIT_MB"),
        ("MEMORY_LIMT_MB", "MEMORY_LIMIT_MB"),
        ("memory_limit_mb", "MEMORY_LIMIT_MB"),
        ("MONGO-URI", "MONGO_URI"),
        ("MONGO_URL", "MONGO_URI"),
        ("MONGOURI", "MONGO_URI"),
        ("NATS_URI", "NATS_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("MAX_BOT_PER_PARTITION", "MAX_BOTS_PER_PARTITION"),
        ("MAX_BACKTEST_PER_PARTITION", "MAX_BACKTESTS_PER_PARTITION"),
        ("MINIO_ACCES_KEY_ID", "MINIO_ACCESS_KEY_ID"),
        ("WORKERID", "WORKER_ID"),
        ("BOT_STOP_SECOND", "BOT_STOP_SECONDS"),
        ("DOCKERHOST", "DOCKER_HOST"),
    ],
)
def test_a_variable_that_is_near_to_a_setting_is_named_with_it(given: str, nearest: str) -> None:
    assert misspelt({given: "1"}) == {given: nearest}


@pytest.mark.parametrize(
    "foreign",
    [
        *("PATH", "HOME", "LANG", "TERM", "MODEL", "NODE", "NODE_ENV", "TMPDIR", "PYTHONPATH", "LOGNAME", "HOSTNAME"),
        *("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "NO_PROXY", "HTTPS_PORT", "POD_NAMESPACE", "POD_NAME"),
        *("KUBERNETES_SERVICE_HOST", "MONGO_PORT", "MONGO_SERVICE_HOST", "NATS_PORT", "MINIO_PORT", "MASTER_PORT"),
        *("BOT_RUNNER_MASTER_SERVICE_PORT", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "AWS_ACCESS_KEY_ID"),
        *("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
        *("COLUMNS", "SHELL", "DEBIAN_FRONTEND", "VIRTUAL_ENV", "CI", "DEPLOYMENT", "BATCH"),
    ],
)
def test_a_variable_of_others_is_left_alone(foreign: str) -> None:
    assert misspelt({foreign: "1"}) == {}


def test_settings_and_their_older_names_are_not_misspelt() -> None:
    assert misspelt(dict.fromkeys(known_variables(), "1")) == {}
    assert {"MEMORY_LIMIT_MB", "BOT_MEMORY_LIMIT_MB", "MINIO_ACCESS_KEY", "MAX_BOTS_PER_PARTITION"} <= known_variables()


def test_an_empty_variable_counts_as_unset() -> None:
    assert misspelt({"MEMORY_LIMITMB": " "}) == {}
