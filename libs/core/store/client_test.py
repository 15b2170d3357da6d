import pytest
from pydantic import SecretStr

from libs.core.store.client import Mongo, StoreMisconfigured


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mysql://localhost",
        "mongodb://",
        "mongodb://host:port",
        "mongodb://host:99999",
        "mongodb://me:ge@heim@host",
        "mongodb://host/?w=many&nonsense",
    ],
)
def test_a_uri_that_cannot_be_parsed_fails_at_once_and_names_the_setting(uri: str) -> None:
    with pytest.raises(StoreMisconfigured, match="MONGO_URI"):
        Mongo(uri)


@pytest.mark.parametrize("uri", ["mongodb://me:ge:heim@host", "mongodb://me:geheim%@ho st:x", "mongodb://geheim@@h:x"])
def test_error_about_uri_hides_credentials(uri: str) -> None:
    with pytest.raises(StoreMisconfigured) as caught:
        Mongo(SecretStr(uri))

    assert "heim" not in str(caught.value)
    assert caught.value.__cause__ is None
