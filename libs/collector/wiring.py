"""The garbage collector as a loop of the leading master."""

from collections.abc import Callable, Sequence

from libs.collector.code import UnreferencedCode
from libs.collector.collector import Collector, Garbage
from libs.collector.data import UnreferencedData
from libs.collector.logs import OldLogs
from libs.collector.records import ManyRecords
from libs.collector.revisions import OrphanedRevisions
from libs.collector.states import UnreferencedState
from libs.core.config.connection_settings import StorageSettings
from libs.core.config.retention_settings import RetentionSettings
from libs.core.config.settings_loader import SettingsError, load
from libs.core.master.master import Master
from libs.core.master.role import Loop, MasterSettings
from libs.core.observability.log import get_logger
from libs.core.process.process import Process
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, SERVICES, ServiceDefinition
from libs.core.storage.data_sets import DataCatalog
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Database
from libs.core.store.code_references import CodeReferences
from libs.core.store.code_retention import CodeRetention
from libs.core.store.revisions import RevisionStore
from libs.core.store.run_trimming import RunTrimming

log = get_logger(__name__)

OwnGarbage = Callable[[ObjectStore, StorageSettings, RetentionSettings], Sequence[Garbage]]
"""The data that only one service stores."""

Databases = Callable[[ServiceDefinition], Database]
"""The database of each service."""


def old_logs(store: ObjectStore, storage: StorageSettings, retention: RetentionSettings) -> Sequence[Garbage]:
    """The logs, for a service that writes some."""
    return [OldLogs(store, storage.logs_bucket, retention.log_keep_seconds, retention.log_count)]


def collecting(own: OwnGarbage) -> Callable[[Process, Master, MasterSettings], Sequence[Loop]]:
    """Return the loops that collect garbage: code, records, and a service's *own* kinds."""

    def loops(process: Process, _master: Master, settings: MasterSettings) -> Sequence[Loop]:
        service, retention = process.service, settings.retention

        def databases(one: ServiceDefinition) -> Database:
            return process.mongo.database(one.database)

        kinds = in_documents(service, databases, retention)
        try:
            storage = load(StorageSettings, service=service)
        except SettingsError as error:
            # A master needs the storage for nothing else, and works without it.
            log.warning("garbage in the storage is not collected", reason=str(error))
        else:
            store = ObjectStore(storage, threads=1)
            process.lifecycle.on_close("storage", store.close, limit_seconds=1)
            kinds += [*in_storage(service, databases, store, storage, retention), *own(store, storage, retention)]
        collector = Collector(kinds, retention.interval_seconds, dry_run=retention.dry_run)
        return [("garbage collector", collector.collect_for_ever)]

    return loops


def in_documents(service: ServiceDefinition, databases: Databases, retention: RetentionSettings) -> list[Garbage]:
    """Return the kinds that the master of *service* collects in its database: old runs, history of removed entities."""
    database = databases(service)
    return [
        ManyRecords(RunTrimming(database), retention.run_count),
        OrphanedRevisions(RevisionStore(database), service.collection),
    ]


def in_storage(
    service: ServiceDefinition,
    databases: Databases,
    store: ObjectStore,
    storage: StorageSettings,
    retention: RetentionSettings,
) -> list[Garbage]:
    """Return the kinds that the master of *service* collects in the storage, except those that only it writes."""
    kinds = [_unreferenced_code(service, databases, store, storage, retention)]
    if service is not BACKTEST_RUNNER:
        kinds.append(_unreferenced_state(service, databases, store, storage))
    if service is BOT_RUNNER:
        kinds.append(_unreferenced_data(store, storage, retention))
    return kinds


def _unreferenced_data(store: ObjectStore, storage: StorageSettings, retention: RetentionSettings) -> Garbage:
    """Return the garbage of data sets, which all services share."""
    catalog = DataCatalog(store, storage.data_bucket or storage.code_bucket, storage.data_prefix)
    return UnreferencedData(catalog, retention.code_keep_seconds)


def _unreferenced_code(
    service: ServiceDefinition,
    databases: Databases,
    store: ObjectStore,
    storage: StorageSettings,
    retention: RetentionSettings,
) -> Garbage:
    """Return the garbage of code of *service*: code without a reference from any service."""
    own, *others = sorted(SERVICES, key=lambda one: one is not service)
    return UnreferencedCode(
        service,
        store,
        storage.code_bucket,
        CodeReferences(
            (databases(own), own.collection),
            [(databases(other), other.collection) for other in others],
        ),
        CodeRetention(databases(service)),
        retention.code_keep_seconds,
    )


def _unreferenced_state(
    service: ServiceDefinition, databases: Databases, store: ObjectStore, storage: StorageSettings
) -> Garbage:
    """Return the garbage of saved state of *service*: state without an entity."""
    references = CodeReferences((databases(service), service.collection), with_revisions=False)
    return UnreferencedState(service, store, storage.state_bucket, references)
