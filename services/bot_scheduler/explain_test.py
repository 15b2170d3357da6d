import pytest

from services.bot_scheduler.cron import parse
from services.bot_scheduler.explain import explain


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("0 9 * * MON-FRI", "At 09:00 on Monday to Friday (UTC)"),
        ("CRON_TZ=Europe/Berlin 30 9,17 * * *", "At 09:30 and 17:30 (Europe/Berlin)"),
        ("*/5 * * * *", "Every 5 minutes (UTC)"),
        ("* * * * *", "Every minute (UTC)"),
        ("* * * * * *", "Every second (UTC)"),
        ("*/10 * * * * *", "Every 10 seconds (UTC)"),
        ("@hourly", "Minute 0 of every hour (UTC)"),
        ("*/15 9-17 * * *", "Every 15 minutes of hours 9 to 17 (UTC)"),
        ("5-50/15 * * * *", "Every 15 minutes from minute 5 to 50 (UTC)"),
        ("0 0 L * *", "At 00:00 on the last day of the month (UTC)"),
        ("0 0 1,15 1-3 *", "At 00:00 on day 1 and 15 of the month in January to March (UTC)"),
        ("0 0 13 * FRI", "At 00:00 on day 13 of the month and also on Friday (UTC)"),
        ("30 0 12 * * *", "At 12:00:30 (UTC)"),
        ("@every 1h30m", "Every 1 hour and 30 minutes"),
        ("@every 1m", "Every minute"),
        ("@every 90s", "Every 1 minute and 30 seconds"),
    ],
)
def test_in_words(expression: str, sentence: str) -> None:
    assert explain(parse(expression)) == sentence
