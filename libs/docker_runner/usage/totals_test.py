from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer, from_labels
from libs.docker_runner.usage.stats import Stats
from libs.docker_runner.usage.totals import Usage, UsageTally


def container(name: str) -> ManagedContainer:
    return from_labels({}, container_id=name, name=name, state=ContainerState.RUNNING)


def seen(name: str, cpu_seconds: float, memory_bytes: int = 100) -> dict[str, Usage]:
    return {name: Usage(container(name), Stats(memory_bytes, 1000, cpu_seconds, 1, 0, 0))}


def ended(name: str, cpu_seconds: float | None) -> Ended:
    return Ended(container(name), 0, False, EndReason.FINISHED, None, None, cpu_seconds=cpu_seconds)


def test_processor_time_adds_up_from_sample_to_sample() -> None:
    tally = UsageTally()
    tally.started(container("a"))
    tally.sampled(seen("a", 1.0), ["a"])
    tally.sampled(seen("a", 3.5) | seen("b", 7.0), ["a", "b"])
    tally.sampled(seen("a", 4.0) | seen("b", 7.5), ["a", "b"])

    # Of b, which another worker started, only the usage since its first sample.
    assert tally.cpu_seconds == 4.0 + 0.5


def test_processors_in_use_are_those_between_the_last_two_samples() -> None:
    tally = UsageTally()
    tally.sampled(seen("a", 1.0), ["a"], 100.0)
    assert [usage.cpus for usage in tally.latest] == [None]

    tally.sampled(seen("a", 6.0) | seen("b", 9.0), ["a", "b"], 110.0)
    assert [usage.cpus for usage in tally.latest] == [0.5, None]


def test_usage_after_last_sample_counts_at_end() -> None:
    tally = UsageTally()
    tally.started(container("a"))
    tally.sampled(seen("a", 1.0), ["a"])
    tally.ended(ended("a", 1.75), removed=False)
    tally.ended(ended("a", 1.75), removed=True)

    assert (tally.cpu_seconds, tally.memory_bytes) == (1.75, 0)


def test_a_container_that_ends_before_it_was_ever_sampled_counts() -> None:
    tally = UsageTally()
    tally.started(container("a"))
    tally.ended(ended("a", 0.25), removed=True)

    assert tally.cpu_seconds == 0.25


def test_end_of_foreign_container_is_not_counted() -> None:
    tally = UsageTally()
    tally.ended(ended("a", 100.0), removed=True)
    tally.ended(ended("b", None), removed=True)

    assert tally.cpu_seconds == 0.0


def test_the_sum_never_falls() -> None:
    tally = UsageTally()
    tally.started(container("a"))
    tally.sampled(seen("a", 5.0), ["a"])
    tally.sampled(seen("a", 4.0), ["a"])  # an engine that was put back
    tally.sampled({}, [])
    tally.sampled(seen("a", 9.0), ["a"])

    assert tally.cpu_seconds == 5.0


def test_a_container_that_starts_while_the_others_are_listed_is_counted_from_its_start() -> None:
    tally = UsageTally()
    tally.started(container("a"))
    tally.sampled({}, [])
    tally.sampled(seen("a", 2.0), ["a"])

    assert tally.cpu_seconds == 2.0


def test_memory_is_that_of_the_containers_that_run_and_are_known() -> None:
    tally = UsageTally()
    tally.sampled(seen("a", 0, 100) | seen("b", 0, 300), ["a", "b", "c"])
    assert (tally.memory_bytes, tally.memory_limit_bytes) == (400, 2000)

    tally.sampled(seen("b", 0, 250), ["a", "b", "c"])

    assert (tally.memory_bytes, tally.memory_limit_bytes) == (250, 1000)
