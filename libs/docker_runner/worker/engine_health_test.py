"""When an engine that does not answer is lost, in virtual time."""

import pytest

from libs.docker_runner.worker.engine_health import Questions


@pytest.mark.parametrize(("after", "lost"), [(0.0, False), (5.0, False), (5.01, True)])
def test_engine_is_lost_five_seconds_after_its_first_unanswered_question(after: float, lost: bool) -> None:
    questions = Questions()
    questions.asked(100.0)
    if after > 4.5:
        questions.asked(104.5)

    assert questions.lost(100.0 + after) is lost


def test_engine_that_is_asked_rarely_is_not_lost_between_questions() -> None:
    questions = Questions()
    assert not questions.lost(1e6)
    questions.asked(100.0)
    questions.answered()

    assert not questions.lost(1e6)


def test_engine_that_answers_again_has_its_whole_time_for_the_next_question() -> None:
    questions = Questions()
    questions.asked(100.0)
    questions.answered()
    questions.asked(106.0)

    assert not questions.lost(111.0)
    assert questions.lost(111.1)
