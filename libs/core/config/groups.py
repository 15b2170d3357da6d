"""All groups of settings, in the order of the documents."""

from libs.core.config.connection_settings import MongoSettings, NatsSettings, StorageSettings
from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.coordination_settings import (
    AutoscalerSettings,
    BatchSettings,
    CompactionSettings,
    CoordinationSettings,
    IdentitySettings,
    LeaseSettings,
    PartitionSettings,
    ScanSettings,
)
from libs.core.config.image_settings import ImageSettings
from libs.core.config.notify_settings import NotifySettings
from libs.core.config.pod_settings import PodSettings
from libs.core.config.process_settings import HttpSettings, LogSettings, MetricsSettings, TracingSettings
from libs.core.config.query_settings import QuerySettings
from libs.core.config.quota_settings import QuotaSettings
from libs.core.config.retention_settings import HistorySettings, RetentionSettings
from libs.core.config.secret_settings import SecretSettings
from libs.core.config.settings_loader import Group
from libs.core.config.transport_settings import TransportSettings

GROUPS: tuple[type[Group], ...] = (
    IdentitySettings,
    MongoSettings,
    NatsSettings,
    StorageSettings,
    LeaseSettings,
    CoordinationSettings,
    TransportSettings,
    HttpSettings,
    MetricsSettings,
    LogSettings,
    TracingSettings,
    PartitionSettings,
    ScanSettings,
    HistorySettings,
    RetentionSettings,
    AutoscalerSettings,
    CompactionSettings,
    BatchSettings,
    ContainerSettings,
    MaximaSettings,
    ImageSettings,
    PodSettings,
    SecretSettings,
    QuotaSettings,
    QuerySettings,
    NotifySettings,
)
