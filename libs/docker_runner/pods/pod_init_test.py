"""The init of a pod as a plain process: what a worker sends it, asks of it, and is told by it."""

import asyncio
import itertools
import json
import socket
import time
from pathlib import Path

import pytest

from libs.docker_runner.pods.link import LinkBroken, LinkRefused, Output, Phase, Question, StartRefused
from tests.support.rigs.pod_init import pod_init

WAITING = "import time\ndef main():\n print('up', flush=True)\n time.sleep(600)"


async def test_sent_bot_runs_and_its_output_outcome_and_end_arrive(tmp_path: Path) -> None:
    source = "import pathlib\ndef main():\n print(len(pathlib.Path('sent.txt').read_text()))\n return {'a': 1}"
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        assert worker.welcome.phase is Phase.WAITING
        await worker.start()
        end = await worker.until_end()
        head, _, payload = bytes(worker.outcome).partition(b"\n")
        await worker.link.leave()

        assert (end.exit_code, end.lost) == (0, False)
        assert worker.printed == b'80000\n{"a": 1}\n'
        assert (json.loads(head)["kind"], json.loads(payload)) == ("result", {"a": 1})
        assert await init.exit_code() == 0


async def test_output_and_errors_are_told_apart_and_their_times_increase(tmp_path: Path) -> None:
    source = (
        "import sys\ndef main():\n for i in range(20):\n  print(i, flush=True)\n  print(i, file=sys.stderr, flush=True)"
    )
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until_end()

    for stream in ("stdout", "stderr"):
        text = b"".join(record.data for record in worker.records if record.stream == stream)
        assert [int(line) for line in text.splitlines()[:20]] == list(range(20))
    stamps = [record.stamp_ns for record in worker.records]
    assert all(first < second for first, second in itertools.pairwise(stamps))


async def test_worker_without_key_is_dropped_and_another_is_served(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        with pytest.raises(LinkBroken):
            await init.connect(key=bytes(32))
        worker = await init.connect()
        assert (await worker.until(lambda report: isinstance(report, Question))) is not None


async def test_connections_that_prove_nothing_keep_no_worker_out(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        worker = await init.connect()
        await worker.start()
        silent = [socket.create_connection(("127.0.0.1", init.port)) for _ in range(20)]
        try:
            await worker.until(lambda report: isinstance(report, Question))
            other = await init.connect(epoch=2)
        finally:
            for one in silent:
                one.close()

        assert other.welcome.phase is Phase.RUNNING


async def test_recorded_frames_are_refused_on_another_connection(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        recorded = bytearray()
        worker = await init.connect()
        write = worker.link._writer.write
        worker.link._writer.write = lambda data: (recorded.extend(data), write(data))[1]  # type: ignore[method-assign, func-returns-value]
        await worker.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", init.port)
        writer.write(worker.link._own + bytes(recorded))
        async with asyncio.timeout(10):
            assert len(await reader.readexactly(16)) == 16
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.transport.abort()


async def test_lower_epoch_is_refused_and_higher_one_takes_over(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        first = await init.connect(epoch=3)
        await first.start()
        with pytest.raises(LinkRefused):
            await init.connect(epoch=2)
        second = await init.connect(epoch=4)

        await second.until_printed(b"up\n")
        with pytest.raises(LinkBroken):
            await first.until(lambda _: False)


async def test_bot_without_grant_is_not_started(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        worker = await init.connect()
        worker.lease_seconds = None
        answer = await worker.start()

        assert isinstance(answer, StartRefused)
        assert "lease" in answer.reason


async def test_bot_ends_when_grants_stop_and_is_asked_before(tmp_path: Path) -> None:
    source = (
        "import signal, time\ndef main():\n"
        " signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        " print('up', flush=True)\n while True: time.sleep(1)"
    )
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        worker.lease_seconds = 2.0
        await worker.start()
        await worker.until_printed(b"up\n")
        worker.lease_seconds, stopped_at = None, time.monotonic()
        end = await worker.until_end()

        assert (end.exit_code, end.lost) == (75, True)
        assert b"asked\n" in worker.printed
        assert time.monotonic() - stopped_at < 6.0


async def test_grant_counts_from_its_question_and_a_late_one_extends_nothing(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        worker = await init.connect()
        worker.lease_seconds = 3.0
        await worker.start()
        await worker.until_printed(b"up\n")
        worker.lease_seconds = None
        question = await worker.until(lambda report: isinstance(report, Question))
        assert isinstance(question, Question)
        asked_at = time.monotonic()
        # Held back until less is left of it than of what was granted before.
        await asyncio.sleep(1.5)
        await worker.link.grant(question, 3.0)
        end = await worker.until_end()

        assert end.lost
        assert time.monotonic() - asked_at < 3.0 + 2.0


async def test_expired_lease_ends_the_bot_at_once(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        worker = await init.connect()
        worker.lease_seconds = 60.0
        await worker.start()
        await worker.until_printed(b"up\n")
        await worker.link.expire()

        assert (await worker.until_end()).lost


async def test_final_grant_is_not_extended(tmp_path: Path) -> None:
    async with pod_init(tmp_path, WAITING) as init:
        worker = await init.connect()
        worker.lease_seconds = 60.0
        await worker.start()
        await worker.until_printed(b"up\n")
        question = await worker.until(lambda report: isinstance(report, Question))
        assert isinstance(question, Question)
        await worker.link.grant(question, 1.0, final=True)

        assert (await worker.until_end()).lost


@pytest.mark.parametrize(("grace", "code"), [(20.0, 143), (0.0, 137)])
async def test_stopped_bot_gets_the_signal_of_its_grace(tmp_path: Path, grace: float, code: int) -> None:
    source = (
        "import signal, time\ndef main():\n signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        " print('up', flush=True)\n time.sleep(600)"
    )
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until_printed(b"up\n")
        await worker.link.stop(grace)

        end = await worker.until_end()

    assert (end.exit_code, end.lost) == (code, False)


async def test_next_worker_reads_on_from_its_offset_and_not_what_is_stored(tmp_path: Path) -> None:
    source = "import time\ndef main():\n print('first', flush=True)\n time.sleep(600)"
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until_printed(b"first\n")
        begin = worker.output_begin

        again = await init.connect(epoch=2, offset=begin)
        await again.until_printed(b"first\n")
        await again.link.stored(begin + len(again.output))
        await again.until(lambda report: isinstance(report, Question))
        third = await init.connect(epoch=3, offset=begin)

        assert third.welcome.offset == begin + len(again.output)
        assert again.records == worker.records


async def test_kept_output_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    source = (
        "import sys\ndef main():\n for i in range(3000): sys.stdout.write(f'{i:08d}' * 1250 + '\\n')\n print('all')"
    )
    async with pod_init(tmp_path, source) as init:
        first = await init.connect()
        await first.start()
        await first.link.close()
        second = await init.connect(epoch=2)
        await second.until(lambda report: isinstance(report, Question))
        await second.link.close()
        # Nothing is read until the bot has ended.
        await asyncio.sleep(4)
        worker = await init.connect(epoch=3)
        await worker.until_end()

    assert b"all\n" in worker.printed
    assert len(worker.output) <= 16 << 20
    assert worker.output_begin > 0


async def test_state_that_changes_arrives_and_the_last_one_too(tmp_path: Path) -> None:
    source = (
        "import pathlib, time\ndef main():\n"
        f" pathlib.Path('{tmp_path}/state/a').write_text('one')\n"
        " print('up', flush=True)\n time.sleep(3.5)\n"
        f" pathlib.Path('{tmp_path}/state/a').write_text('last one')"
    )
    async with pod_init(tmp_path, source, state=True) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until(lambda _: b"one" in worker.state and b"last one" not in worker.state)
        await worker.until_end()

    assert b"last one" in worker.state


async def test_key_cannot_be_read_by_the_bot(tmp_path: Path) -> None:
    source = (
        "import os, pathlib\ndef tried(path):\n"
        " try: return pathlib.Path(path).read_bytes().decode(errors='replace')\n"
        " except OSError as error: return type(error).__name__\n"
        "def main():\n"
        " child = os.getppid()\n"
        " first = int(pathlib.Path(f'/proc/{child}/stat').read_text().rpartition(')')[2].split()[1])\n"
        " print('own', 'THE0_LINK_KEY' in os.environ)\n"
        " for process in (child, first):\n"
        "  print(tried(f'/proc/{process}/environ').replace(chr(0), '|'))"
    )
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until_end()

    assert b"own False" in worker.printed
    assert init.key.hex().encode() not in worker.printed


async def test_bot_can_neither_signal_nor_trace_what_keeps_it(tmp_path: Path) -> None:
    source = (
        "import os, signal\ndef main():\n"
        " for number in (signal.SIGKILL, signal.SIGSTOP):\n"
        "  try: os.kill(os.getppid(), number)\n"
        "  except PermissionError: print('refused')\n"
    )
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        await worker.until_end()

    assert worker.printed.count(b"refused") == 2


async def test_output_arrives_in_parts_that_join(tmp_path: Path) -> None:
    source = "def main():\n print('x' * 300_000)\n return {}"
    async with pod_init(tmp_path, source) as init:
        worker = await init.connect()
        await worker.start()
        parts: list[Output] = []
        await worker.until(lambda report: _kept(report, parts) and b"{}\n" in worker.printed)

    assert worker.printed == b"x" * 300_000 + b"\n{}\n"
    assert len(parts) > 5


def _kept(report: object, parts: list[Output]) -> bool:
    if isinstance(report, Output):
        parts.append(report)
    return True
