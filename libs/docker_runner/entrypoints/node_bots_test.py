"""Node bots under their supervisor, as plain processes of this host."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.bot_process import (
    BotProcess,
    Finished,
    first_line,
    is_gone,
    outlive_lease,
    uptime,
    write_lease,
)


def bot(directory: Path, source: str, script: str = "main.js", **more: Any) -> BotProcess:
    files = {script: source, **more.pop("files", {})}
    return BotProcess(directory, "nodejs20", files, script, **more)


def run(directory: Path, source: str, script: str = "main.js", **more: Any) -> Finished:
    return bot(directory, source, script, **more).run()


def exported(body: str, kind: str = "") -> str:
    return f"module.exports = {{ main: {kind} (id, config, context) => {{ {body} }} }};"


FORMS = {
    "object": ("main.js", "module.exports = { main: (id, config) => [id, config.x] }"),
    "exports": ("main.js", "exports.main = (id, config) => [id, config.x]"),
    "function": ("main.js", "module.exports = (id, config) => [id, config.x]"),
    "default": ("main.js", "exports.default = (id, config) => [id, config.x]"),
    "mjs": ("main.mjs", "export const main = (id, config) => [id, config.x]"),
    "mjs-default": ("main.mjs", "export default async (id, config) => [id, config.x]"),
    "mjs-default-object": ("main.mjs", "export default { main: (id, config) => [id, config.x] }"),
    "cjs": ("main.cjs", "module.exports.main = async (id, config) => [id, config.x]"),
    "top-level-await": ("main.mjs", "const x = await 1; export const main = (id, config) => [id, config.x]"),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_main_is_called(tmp_path: Path, form: str) -> None:
    script, source = FORMS[form]
    done = run(tmp_path, source, script, config={"x": 1})
    assert (done.exit_code, done.lines) == (0, ['["b1",1]'])
    assert json.loads(done.payload) == ["b1", 1]


def test_a_package_of_type_module_is_imported(tmp_path: Path) -> None:
    files = {"package.json": '{"type": "module"}', "dep.js": "export default 7"}
    done = run(tmp_path, "import dep from './dep.js'; export const main = () => dep", files=files)
    assert (done.exit_code, done.last) == (0, 7)


def test_node_modules_beside_the_code_are_found(tmp_path: Path) -> None:
    files = {"node_modules/dep/index.js": "module.exports = 'dep'"}
    assert run(tmp_path, "const d = require('dep'); exports.main = () => d", "src/main.js", files=files).last == "dep"


def test_a_rejection_gives_a_stack_a_last_line_and_exit_code_one(tmp_path: Path) -> None:
    done = run(tmp_path, exported("throw new Error('no \"money\"')", "async"))
    assert (done.exit_code, done.last) == (1, {"status": "error", "message": 'no "money"'})
    assert b"main.js" in done.stderr
    assert b"the0_bot_process" not in done.stderr


@pytest.mark.parametrize(
    "body", ["setTimeout(() => { throw new Error('late') }); return new Promise(() => {})",
             "Promise.reject(new Error('late')); return new Promise(() => setTimeout(() => {}, 60000))"]
)  # fmt: skip
def test_an_error_that_nobody_catches_ends_the_bot(tmp_path: Path, body: str) -> None:
    done = run(tmp_path, exported(body))
    assert (done.exit_code, done.last) == (1, {"status": "error", "message": "late"})


def test_a_main_that_waits_for_nothing_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, exported("return new Promise(() => {})"))
    assert done.exit_code == 1
    assert "never finished" in done.last["message"]


def test_undefined_gives_null_and_so_does_nan(tmp_path: Path) -> None:
    assert run(tmp_path / "1", exported("")).lines == ["null"]
    assert run(tmp_path / "2", exported("return [NaN, Infinity, undefined]")).lines == ["[null,null,null]"]


def test_a_result_that_is_not_json_is_an_error_that_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, exported("const a = {}; a.a = a; return a"))
    assert done.exit_code == 1
    assert "not JSON" in done.last["message"]


def test_a_result_over_the_limit_is_an_error_that_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, exported("return 'x'.repeat(5000)"), result_bytes=1000)
    assert done.exit_code == 1
    assert "more than 1000 bytes" in done.last["message"]


def test_ten_megabytes_of_output_come_out_whole(tmp_path: Path) -> None:
    done = run(tmp_path, exported("for (let i = 0; i < 10; i++) console.log('x'.repeat(1 << 20)); return 1"))
    assert done.exit_code == 0
    assert len(done.stdout) == 10 * ((1 << 20) + 1) + 2


def test_what_was_printed_before_process_exit_comes_out_whole(tmp_path: Path) -> None:
    done = run(tmp_path, exported("process.stdout.write('x'.repeat(10 << 20)); process.exit(3)"))
    assert (done.exit_code, len(done.stdout)) == (3, 10 << 20)


def test_the_result_has_a_line_of_its_own(tmp_path: Path) -> None:
    assert run(tmp_path, exported("process.stdout.write('no newline'); return 1")).lines == ["no newline", "1"]


def test_a_large_result_comes_out_whole(tmp_path: Path) -> None:
    assert len(run(tmp_path, exported("return 'x'.repeat(900000)")).last) == 900000


def test_timers_that_the_bot_left_do_not_keep_it(tmp_path: Path) -> None:
    assert run(tmp_path, exported("setInterval(() => {}, 1000); return 1")).last == 1


def test_any_config_arrives_as_it_was(tmp_path: Path) -> None:
    config: dict[str, Any] = {"quote's \"": "a\nb\t$HOME `id` \\ ${x} $(y)", "ü😀": ["\u2028", None, 1.5, [[]]]}
    done = run(tmp_path, exported("return [config, JSON.parse(process.env.BOT_CONFIG)]"), config=config)
    assert done.last == [config, config]


def test_a_config_larger_than_an_environment_string_may_be_arrives(tmp_path: Path) -> None:
    body = "return [config.x.length, process.env.BOT_CONFIG.length]"
    assert run(tmp_path, exported(body), config={"x": "y" * 1_000_000}).last == [1_000_000, 1_000_009]


@pytest.mark.parametrize("identity", ["../x", "a/b", "sp ace 😀", "i" * 300, "$(id)'\"\n"])
def test_any_id_arrives_as_it_was(tmp_path: Path, identity: str) -> None:
    assert run(tmp_path, exported("return [id, process.env.BOT_ID]"), id=identity).last == [identity, identity]


def test_the_environment_is_the_contract(tmp_path: Path) -> None:
    seen = run(tmp_path, exported("return {...process.env, cwd: process.cwd()}"), entrypoint="backtest").last
    code = str(tmp_path / "code")
    assert (seen["BACKTEST_ID"], seen["BACKTEST_CONFIG"]) == ("b1", "{}")
    assert (seen["ENTRYPOINT_TYPE"], seen["SCRIPT_PATH"]) == ("backtest", "main.js")
    assert (seen["CODE_MOUNT_DIR"], seen["cwd"]) == (code, code)
    assert "BOT_ID" not in seen


def test_a_missing_entrypoint_file_is_a_clear_error(tmp_path: Path) -> None:
    done = BotProcess(tmp_path, "nodejs20", {"a.js": ""}, "nope.js").run()
    assert done.exit_code == 1
    assert "'nope.js' is not in the bot's archive" in done.last["message"]


def test_a_script_without_main_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, "const x = 1")
    assert done.exit_code == 1
    assert "exports no function main(id, config)" in done.last["message"]


def test_a_syntax_error_is_told_with_its_file(tmp_path: Path) -> None:
    done = run(tmp_path, "exports.main = (=> {")
    assert done.exit_code == 1
    assert b"main.js" in done.stderr
    assert b"SyntaxError" in done.stderr


WAITING = "console.log('up'); const timer = setInterval(() => {}, 1000);"
STOPPABLE = {
    "signal": exported(
        f"{WAITING} return new Promise((done) => context.signal.addEventListener('abort', () => done('closed')))"
    ),
    "destructured": "exports.main = async (id, config, { signal } = {}) => {" + WAITING
    + "while (!signal.aborted) await new Promise((r) => setTimeout(r, 20)); return 'closed' }",
}  # fmt: skip


def terminated(one: BotProcess) -> Finished:
    process = one.start()
    assert first_line(process) == b"up\n"
    process.terminate()
    return one.finish(process)


@pytest.mark.parametrize("form", list(STOPPABLE))
def test_sigterm_reaches_a_main_that_watches_its_signal(tmp_path: Path, form: str) -> None:
    done = terminated(bot(tmp_path, STOPPABLE[form]))
    assert (done.exit_code, done.last, done.outcome["reason"]) == (0, "closed", "terminated")


def test_an_exported_shutdown_is_awaited(tmp_path: Path) -> None:
    shutdown = "exports.shutdown = async () => { await new Promise((r) => setTimeout(r, 100)); console.log('closed') };"
    main = "exports.main = () => {" + WAITING + " return new Promise(() => {}) };"
    done = terminated(bot(tmp_path, shutdown + main))
    assert (done.exit_code, done.lines) == (143, ["closed"])


def test_a_bot_that_watches_nothing_ends_at_once(tmp_path: Path) -> None:
    done = terminated(bot(tmp_path, exported(WAITING + "return new Promise(() => {})", "async")))
    assert (done.exit_code, done.lines) == (143, [])


def test_a_handler_of_the_bots_own_is_left_to_end_it(tmp_path: Path) -> None:
    body = "process.on('SIGTERM', () => setTimeout(() => process.exit(5), 50));" + WAITING
    assert terminated(bot(tmp_path, exported(body + "return new Promise(() => {})"))).exit_code == 5


def test_an_abort_that_main_lets_pass_is_no_failure(tmp_path: Path) -> None:
    source = (
        "const { setTimeout: sleep } = require('timers/promises');"
        "exports.main = async (id, config, { signal }) => { console.log('up'); await sleep(60000, null, { signal }) }"
    )
    done = terminated(bot(tmp_path, source))
    assert (done.exit_code, done.lines) == (143, [])


def test_processes_that_the_bot_leaves_end_with_it(tmp_path: Path) -> None:
    done = run(tmp_path, exported("return require('child_process').spawn('sleep', ['60'], {stdio: 'inherit'}).pid"))
    assert is_gone(done.last)


def test_a_bot_killed_by_a_signal_has_its_exit_code(tmp_path: Path) -> None:
    assert (
        run(tmp_path, exported("process.kill(process.pid, 'SIGKILL'); return new Promise(() => {})")).exit_code == 137
    )


def test_a_bot_that_prints_too_fast_is_slowed_down_and_loses_nothing(tmp_path: Path) -> None:
    body = "for (let i = 0; i < 12; i++) console.log('x'.repeat(99999))"
    started = time.monotonic()
    done = run(tmp_path, exported(body), output_bytes_per_second=600_000, output_burst_bytes=100_000)
    assert len(done.stdout) == 1_200_000 + 5
    assert time.monotonic() - started > 0.8


IGNORES = exported(
    "process.on('SIGTERM', () => console.log('told'));" + WAITING + "return new Promise(() => {})", "async"
)


def test_a_lease_that_runs_out_ends_even_a_bot_that_ignores_sigterm(tmp_path: Path) -> None:
    # How quickly is the best of three, for the sake of machines that are busy.
    for attempt in range(3):
        done, late_seconds = outlive_lease(bot(tmp_path / str(attempt), IGNORES, keepalive_ttl_seconds=60.0))
        assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")
        assert late_seconds > -0.05
        if done.lines == ["told"] and late_seconds < 0.6:
            return
    pytest.fail(f"it was {late_seconds:.2f} s late, and printed {done.lines}")


def test_a_lease_that_is_renewed_keeps_the_bot(tmp_path: Path) -> None:
    source = exported("console.log('up'); return new Promise((r) => setTimeout(() => r('alive'), 3000))")
    one = bot(tmp_path, source, keepalive_ttl_seconds=60.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 3)
    # So that it is seen; the bot is told to end only after more than two seconds.
    time.sleep(0.4)
    write_lease(one, uptime() + 60, ttl=60.0, counter=1)
    assert one.finish(process).last == "alive"


def test_a_container_that_starts_after_its_lease_never_starts_the_bot(tmp_path: Path) -> None:
    one = bot(tmp_path, IGNORES, keepalive_ttl_seconds=5.0)
    write_lease(one, uptime() - 1)
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (75, [])


def test_under_another_kernel_a_file_that_does_not_change_ends_the_bot(tmp_path: Path) -> None:
    one = bot(tmp_path, IGNORES, keepalive_ttl_seconds=60.0)
    write_lease(one, 1e9, ttl=60.0, boot_id="another-kernel")
    process = one.start()
    first_line(process)
    written = time.monotonic()
    write_lease(one, 1e9, ttl=1.5, boot_id="another-kernel", counter=1)
    assert one.finish(process).exit_code == 75
    assert 1.4 < time.monotonic() - written < 30


def test_the_switch_fires_while_nobody_reads_the_output(tmp_path: Path) -> None:
    one = bot(tmp_path, exported("while (true) console.log('x'.repeat(1000))"), keepalive_ttl_seconds=60.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 1.2)
    assert process.wait(timeout=60) == 75
    process.communicate()
