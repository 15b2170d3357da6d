from typing import cast

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from libs.core.store.client import Database, StoreDenied, StoreUnavailable
from libs.core.store.code_references import CodeReferences
from tests.support.faults.interruptions import InterruptedDatabase


def failing(database: Database, error: Exception) -> Database:
    """A database whose first read fails."""

    async def fail() -> None:
        raise error

    return cast(Database, InterruptedDatabase(database, 1, fail, only="find"))


async def test_references_of_all_services_count(database: Database) -> None:
    await database["bots"].insert_one({"id": "b", "custom": {"filePath": "one"}})
    await database["schedules"].insert_one({"id": "s", "custom": {"filePath": "two"}})
    references = CodeReferences((database, "bots"), [(database, "schedules"), (database, "none")])

    assert await references.among(["one", "two", "three"]) == {"one", "two"}
    assert await references.among([]) == set()


async def test_revisions_that_keep_their_code_count_unless_they_are_left_out(database: Database) -> None:
    await database["revisions"].insert_many(
        [{"custom": {"filePath": "kept"}, "keeps_code": True}, {"custom": {"filePath": "old"}, "keeps_code": False}]
    )

    assert await CodeReferences((database, "bots")).among(["kept", "old"]) == {"kept"}
    assert await CodeReferences((database, "bots"), with_revisions=False).among(["kept", "old"]) == set()


async def test_another_services_database_that_may_not_be_read_is_left_out(database: Database) -> None:
    await database["bots"].insert_one({"id": "b", "custom": {"filePath": "one"}})
    denied = failing(database, OperationFailure("not authorized on bot_scheduler", 13))

    assert await CodeReferences((database, "bots"), [(denied, "schedules")]).among(["one", "two"]) == {"one"}


@pytest.mark.parametrize(
    ("is_own", "error", "expected"),
    [
        (True, OperationFailure("not authorized on bot_runner", 13), StoreDenied),
        (True, AutoReconnect("gone"), StoreUnavailable),
        (False, AutoReconnect("gone"), StoreUnavailable),
    ],
)
async def test_references_that_cannot_be_read_are_unknown_and_not_absent(
    database: Database, is_own: bool, error: Exception, expected: type[Exception]
) -> None:
    own, other = (database, "bots"), (database, "schedules")
    broken = failing(database, error)
    references = CodeReferences((broken, "bots"), [other]) if is_own else CodeReferences(own, [(broken, "schedules")])

    with pytest.raises(expected):
        await references.among(["one"])
