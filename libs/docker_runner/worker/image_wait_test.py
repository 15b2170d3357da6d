"""When the images of bots allow a worker to take segments."""

from structlog.testing import capture_logs

from libs.docker_runner.worker.image_wait import ImageWait


def test_no_bot_may_start_before_the_images_are_looked_for() -> None:
    assert "looked for" in ImageWait(required=True).complaint


def test_images_that_are_there_need_no_preparation() -> None:
    wait = ImageWait(required=True)

    wait.looked([])

    assert wait.complaint == ""


def test_images_that_are_being_pulled_are_named() -> None:
    wait = ImageWait(required=True)

    wait.looked(["python:1", "node:2"])

    assert wait.complaint == "images are being pulled: python:1 and node:2"


def test_reason_of_a_failed_pull_is_the_complaint_until_the_image_is_there() -> None:
    wait = ImageWait(required=True)
    wait.looked(["node:2", "python:1"])

    wait.prepared({"python:1": "python:1: no route", "node:2": "node:2: denied"})
    assert wait.complaint == wait.warning == "node:2: denied; python:1: no route"

    wait.prepared({})
    assert (wait.complaint, wait.warning) == ("", "")


def test_image_that_is_lost_later_is_a_warning_only() -> None:
    wait = ImageWait(required=True)
    wait.looked([])

    wait.prepared({"python:1": "python:1: no route"})

    assert (wait.complaint, wait.warning) == ("", "python:1: no route")


def test_missing_image_of_an_engine_that_outlives_its_workers_is_a_warning_only() -> None:
    wait = ImageWait(required=False)
    wait.looked(["node:2"])

    wait.prepared({"node:2": "node:2: denied"})

    assert (wait.complaint, wait.warning) == ("", "node:2: denied")


def test_failed_pull_is_logged_once_until_the_image_is_there() -> None:
    wait = ImageWait(required=True)
    with capture_logs() as logs:
        for port in range(3):
            wait.prepared({"python:1": f"no route from port {port}"})
        wait.prepared({})
        wait.prepared({"python:1": "no route again"})

    assert [(line["log_level"], line.get("reason")) for line in logs] == [
        ("warning", "no route from port 0"),
        ("info", None),
        ("warning", "no route again"),
    ]
