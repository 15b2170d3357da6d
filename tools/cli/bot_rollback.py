"""`runtime bot rollback`: deploy an earlier revision again."""

from typing import Any

import click

from libs.core.process.service import BOT_RUNNER
from libs.core.secrets.withholding import SecretsMissing, completed
from libs.core.storage.errors import ObjectMissing
from libs.core.store.audit import Action
from libs.core.store.entities import Entity
from libs.core.store.releases import effective
from libs.core.store.revisions import Revision, RevisionStore
from tools.author.config_check import refuse_deployed
from tools.bots.announce import redeployed
from tools.bots.deploying import publish
from tools.bots.redeploy import kept_fields
from tools.bots.revisions import NoSuchRevision, code_of, target_of
from tools.cli import interrupts
from tools.cli.audit_record import record
from tools.cli.connections import Connections, connected
from tools.cli.entity_lookup import existing
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.health_options import Health, health_of, health_options, health_text
from tools.cli.output import cell, output_option, show


@click.command()
@click.argument("bot_id", metavar="ID")
@click.argument("revision", metavar="[REV]", required=False, type=click.IntRange(1))
@health_options
@output_option
def rollback(
    bot_id: str, revision: int | None, wait_seconds: float, no_wait: bool, no_rollback: bool, output: str
) -> None:
    """Deploy the code and the config of an earlier revision again: REV, or the one before the running one.

    It is a deploy like any other: checked before it replaces the running version, watched, and recorded as a new
    revision. References to secrets are those of the earlier revision; literal secrets, which the history does not
    store, are those of the present config. A held bot stays held.

    Exit code 4 when there is no such bot or revision, or its code no longer exists.
    """
    data = interrupts.run(_rollback(bot_id, revision, health_of(wait_seconds, no_wait, no_rollback)))
    show(output, data, lambda: click.echo(_said(data)))


async def _rollback(bot_id: str, wanted: int | None, health: Health) -> dict[str, Any]:
    async with connected() as servers:
        entity = await existing(servers, BOT_RUNNER, bot_id)
        database = await servers.database(BOT_RUNNER)
        try:
            target = target_of(entity, await RevisionStore(database).of(entity), wanted)
        except NoSuchRevision as error:
            raise Failure(str(error), ExitCode.NOT_FOUND) from error
        await _check_code(servers, target)
        running = effective(entity)
        try:
            config = completed(target.config, target.withheld, running.config)
        except SecretsMissing as error:
            raise Failure(f"revision {target.revision} of {bot_id!r} cannot be restored: {error}") from error
        refuse_deployed(Entity.of({"id": bot_id, "custom": target.custom}).bot, config, where="the restored config")
        announced = redeployed(entity, config, target.custom, beside={**kept_fields(entity), **health.fields})
        await record(servers, Action.UPDATED, [bot_id], f"rollback to revision {target.revision}")
        await publish(servers, BOT_RUNNER, await servers.entities(BOT_RUNNER), announced, is_new=False)
        facts = {"id": bot_id, "restored": target.revision, "version": target.version}
        return facts | await health.watch(servers, bot_id, announced.updated_at)


async def _check_code(servers: Connections, target: Revision) -> None:
    """Check that the code of the revision still exists, unchanged."""
    code = code_of(target)
    if code is None:
        raise Failure(f"revision {target.revision} has no code: its `custom.filePath` is missing", ExitCode.NOT_FOUND)
    bucket = code.bucket or servers.storage_settings().code_bucket
    deploy = "deploy the folder of that version instead"
    try:
        found = await servers.storage().stat(bucket, code.key)
    except ObjectMissing:
        raise Failure(
            f"the code of revision {target.revision} no longer exists ({bucket}/{code.key}); {deploy}",
            ExitCode.NOT_FOUND,
        ) from None
    if target.code_etag and found.etag != target.code_etag:
        raise Failure(
            f"the code of revision {target.revision} was replaced by other code under the same key "
            f"({bucket}/{code.key}); {deploy}",
            ExitCode.NOT_FOUND,
        )


def _said(data: dict[str, Any]) -> str:
    version = f" (version {data['version']})" if data["version"] else ""
    text = f"{cell(data['id'])} is rolled back to revision {data['restored']}{cell(version)}"
    return f"{text}, and {health_text(data)}" if health_text(data) else text
