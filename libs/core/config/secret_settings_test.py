import pytest

from libs.core.config.groups import GROUPS
from libs.core.config.secret_settings import SecretSettings
from libs.core.config.settings_loader import SettingsError, load, rows
from libs.core.process.service import SERVICES
from libs.core.secrets.providers import ENVIRONMENT_PREFIX


def test_allow_list_names_owners_of_each_secret() -> None:
    found = load(SecretSettings, environ={"SECRETS_ALLOW": "feed=*, desk=ann,desk=bob , k.e-y=Ann B"})

    assert found.allowed == {"feed": {"*"}, "desk": {"ann", "bob"}, "k.e-y": {"Ann B"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRETS_ALLOW", "feed"),
        ("SECRETS_ALLOW", "feed="),
        ("SECRETS_ALLOW", "../x=ann"),
        ("SECRETS_DIR", "relative"),
        ("SECRETS_KEY_FILE", "keys"),
        ("OWNER_FIELD", "custom..author"),
        ("OWNER_FIELD", "$where"),
    ],
)
def test_wrong_value_is_refused_with_the_name_of_the_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(SecretSettings, environ={name: value})


def test_no_setting_is_named_like_a_secret() -> None:
    names = {row.name for service in SERVICES for row in rows(GROUPS, service)}
    assert not any(name.startswith(ENVIRONMENT_PREFIX) for name in names)
