"""The MinIO SDK without the parts that we never use."""

from contextlib import ExitStack

from libs.core.lean_imports import hollow

__all__ = [
    "ComposeSource",
    "InvalidResponseError",
    "MinioException",
    "Object",
    "S3Error",
    "ServerError",
    "minio",
]

# 4 MB in every worker. Most is in the administration client, which brings ciphers.
_UNUSED = {
    "minio.minioadmin": ("MinioAdmin",),
    "minio.lifecycleconfig": ("LifecycleConfig",),
    "minio.notificationconfig": ("NotificationConfig",),
    "minio.objectlockconfig": ("ObjectLockConfig",),
    "minio.replicationconfig": ("ReplicationConfig",),
    "minio.select": ("SelectObjectReader", "SelectRequest"),
    "minio.sseconfig": ("SSEConfig",),
    "minio.tagging": ("Tagging",),
    "minio.versioningconfig": ("VersioningConfig",),
}
with ExitStack() as unused:
    for module, names in _UNUSED.items():
        unused.enter_context(hollow(module, *names))
    import minio
    from minio.commonconfig import ComposeSource
    from minio.datatypes import Object
    from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
