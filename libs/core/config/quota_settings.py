"""Settings of quotas: what one owner may run."""

from typing import Annotated

from pydantic import Field

from libs.core.config.settings_loader import Group, Named


class QuotaSettings(Group):
    """The quota of each owner, by OWNER_FIELD, in one service. The same for all workers of the service."""

    running: Annotated[
        int,
        Named("QUOTA_RUNNING"),
        Field(
            ge=0,
            le=1_000_000,
            description="bots of one owner that may run at once, or backtests, or runs of schedules; others wait; "
            "0: no quota",
        ),
    ] = 0
    memory_mb: Annotated[
        int,
        Named("QUOTA_MEMORY_MB", unit="MiB"),
        Field(ge=0, le=1_073_741_824, description="sum of the memory limits of what runs of one owner; 0: no quota"),
    ] = 0
    cpus: Annotated[
        float,
        Named("QUOTA_CPUS", unit="processors"),
        Field(
            ge=0,
            le=1_000_000,
            allow_inf_nan=False,
            description="sum of the CPU limits of what runs of one owner; it needs BOT_CPUS; 0: no quota",
        ),
    ] = 0.0
    starts_per_minute: Annotated[
        int,
        Named("QUOTA_STARTS_PER_MINUTE"),
        Field(
            ge=0, le=10_000, description="starts of one owner in a minute, restarts and retries included; 0: no quota"
        ),
    ] = 0
    data_mb: Annotated[
        int,
        Named("QUOTA_DATA_MB", unit="MiB"),
        Field(
            ge=0,
            le=1_073_741_824,
            description="size of the files in all data sets of one owner, which `runtime bot data put` checks; "
            "0: no quota",
        ),
    ] = 0
