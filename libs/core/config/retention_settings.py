"""Settings of retention: records, logs, results and code."""

from typing import Annotated

from pydantic import Field

from libs.core.config.settings_loader import Group, Named, Seconds


class HistorySettings(Group):
    """The retention of records."""

    keep_runs_days: Annotated[
        float,
        Named("RUN_HISTORY_DAYS", unit="days"),
        Field(gt=0, le=3650, allow_inf_nan=False, description="time for which records of runs are kept"),
    ] = 30.0
    keep_audit_days: Annotated[
        float,
        Named("AUDIT_DAYS", unit="days"),
        Field(gt=0, le=3650, allow_inf_nan=False, description="time for which entries of the audit record are kept"),
    ] = 90.0


class RetentionSettings(Group):
    """Garbage collection by the leading master."""

    interval_seconds: Annotated[
        Seconds,
        Named("GC_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=1, le=604_800, description="interval at which the leading master removes expired data"),
    ] = 3600.0
    dry_run: Annotated[
        bool,
        Named("GC_DRY_RUN"),
        Field(description="whether expired data is only logged and counted, not removed"),
    ] = False
    code_days: Annotated[
        float,
        Named("CODE_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time after its upload for which unreferenced code is kept; 0: forever. An event may wait for "
            "half of that time until a worker reads it",
        ),
    ] = 16.0
    log_days: Annotated[
        float,
        Named("LOG_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time for which a day's log is kept after its last write; 0: forever",
        ),
    ] = 180.0
    log_count: Annotated[
        int,
        Named("LOG_RETENTION_COUNT"),
        Field(
            ge=0,
            le=100_000,
            description="number of days with output for which the logs of one id are kept; 0: unlimited",
        ),
    ] = 0
    result_days: Annotated[
        float,
        Named("RESULT_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time for which a backtest's result and output are kept; 0: forever",
        ),
    ] = 365.0
    result_count: Annotated[
        int,
        Named("RESULT_RETENTION_COUNT"),
        Field(ge=0, le=100_000, description="number of backtests whose result and output are kept; 0: unlimited"),
    ] = 0
    run_count: Annotated[
        int,
        Named("RUN_HISTORY_COUNT"),
        Field(
            ge=0, le=1_000_000_000, description="number of records of ended runs that are kept per entity; 0: unlimited"
        ),
    ] = 10_000

    @property
    def code_keep_seconds(self) -> float:
        """The retention of unreferenced code; 0 for ever."""
        return self.code_days * 86_400

    @property
    def log_keep_seconds(self) -> float:
        """The retention of logs; 0 for ever."""
        return self.log_days * 86_400

    @property
    def result_keep_seconds(self) -> float:
        """The retention of results; 0 for ever."""
        return self.result_days * 86_400
