from libs.core.http.health import Readiness


def test_a_process_that_has_looked_at_nothing_is_not_ready() -> None:
    assert not Readiness().ready


def test_a_process_is_ready_when_all_it_depends_on_is_ok() -> None:
    readiness = Readiness()
    readiness.report("mongodb", True)
    readiness.report("storage", False, "no answer")
    before = readiness.ready
    readiness.report("storage", True)

    assert (before, readiness.ready) == (False, True)


def test_an_expected_dependency_is_not_ok_until_it_is_reported() -> None:
    readiness = Readiness()
    readiness.report("mongodb", True)
    readiness.expect("mongodb")
    readiness.expect("master", "not connected yet")

    assert readiness.states["mongodb"].ok
    assert not readiness.ready


def test_optional_dependency_is_shown_but_not_required() -> None:
    readiness = Readiness()
    readiness.report("mongodb", True)
    readiness.report("nats", False, "connection refused", required=False)
    readiness.report("nats", False, "still refused")

    assert readiness.ready
    assert readiness.snapshot()["dependencies"]["nats"]["ok"] is False


def test_a_forgotten_dependency_counts_no_more() -> None:
    readiness = Readiness()
    readiness.report("mongodb", True)
    readiness.report("nats", False)
    readiness.forget("nats")
    readiness.forget("nats")

    assert readiness.ready


def test_since_moves_only_when_the_state_does() -> None:
    now = iter([100.0, 200.0])
    readiness = Readiness(clock=lambda: next(now))
    readiness.report("mongodb", False, "refused")
    readiness.report("mongodb", False, "timed out")
    failed = readiness.snapshot()["dependencies"]["mongodb"]
    readiness.report("mongodb", True)

    assert failed == {"ok": False, "detail": "timed out", "since": "1970-01-01T00:01:40.000+00:00", "required": True}
    assert readiness.states["mongodb"].since == 200.0


def test_the_snapshot_names_its_status() -> None:
    readiness = Readiness()
    readiness.report("mongodb", False)
    assert readiness.snapshot()["status"] == "not ready"
    readiness.report("mongodb", True)

    assert readiness.snapshot()["status"] == "ready"
