"""When the network of bots allows a worker to take segments."""

from libs.docker_runner.worker.network_wait import NetworkWait


def test_no_bot_may_start_before_the_network_is_secured() -> None:
    wait = NetworkWait()
    assert wait.complaint == "the network of bots is being set up"

    wait.secured()

    assert wait.complaint == ""


def test_worker_beside_running_containers_waits_for_nothing() -> None:
    wait = NetworkWait()

    wait.continues()
    wait.lacks("python:1", "no route")

    assert wait.complaint == ""


def test_missing_image_is_named_until_its_pull_has_failed() -> None:
    wait = NetworkWait()

    wait.lacks("python:1", "")
    assert wait.complaint == "the network of bots needs the image python:1, which is being pulled"

    wait.lacks("python:1", "python:1: no route")
    assert wait.complaint == "python:1: no route"


def test_image_that_is_lost_later_is_no_hindrance() -> None:
    wait = NetworkWait()
    wait.secured()

    wait.lacks("python:1", "")

    assert wait.complaint == ""
