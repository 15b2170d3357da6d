import pytest

from services.backtest_runner.objects import (
    analysis_key,
    is_analysis,
    is_logs,
    is_staged,
    logs_beside,
    logs_key,
    staged_key,
)


@pytest.mark.parametrize("backtest_id", ["b1", "a/b", "..", "x" * 300, "analysis.json"])
def test_keys_are_distinct_for_any_ids(backtest_id: str) -> None:
    keys = [analysis_key(backtest_id), logs_key(backtest_id), staged_key(backtest_id, "run", "logs.txt")]

    assert [is_analysis(key) for key in keys] == [True, False, False]
    assert [is_logs(key) for key in keys] == [False, True, False]
    assert [is_staged(key) for key in keys] == [False, False, True]
    assert logs_beside(keys[0]) == keys[1]


@pytest.mark.parametrize("key", ["analysis.json", "b1/analysis.json.bak", "b1/other.json", "b1/.attempts/x"])
def test_other_objects_are_none_of_them(key: str) -> None:
    assert not is_analysis(key)
    assert not is_logs(key)
    assert not is_staged(key)
