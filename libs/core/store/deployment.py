"""The deployment's identity, stored in its database: it distinguishes containers of deployments on one host."""

import secrets
from datetime import UTC, datetime

from pymongo import ReturnDocument

from libs.core.store.client import Database, StoreConflict, StoreRejected, translated

_DOCUMENT_ID = "deployment"


async def deployment_id(database: Database) -> str:
    """Return the random id of *database*, 20 hexadecimal digits; created by the first call and constant.

    Raises:
        StoreUnavailable: retry later.
    """
    try:
        return await _made_or_found(database)
    except StoreConflict:
        # Of two concurrent calls, the other one created it.
        return await _made_or_found(database)


async def _made_or_found(database: Database) -> str:
    with translated():
        document = await database["deployment"].find_one_and_update(
            {"_id": _DOCUMENT_ID},
            {"$setOnInsert": {"id": secrets.token_hex(10), "created_at": datetime.now(UTC)}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
    if document is None:
        raise StoreRejected("it returned nothing for a document that it should have created")
    return str(document["id"])
