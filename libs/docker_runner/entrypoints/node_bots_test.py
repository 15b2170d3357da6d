"""Node bots under the init, as plain processes of this host."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from libs.core.hostile_json import Parsed, parse
from libs.docker_runner.containers.failure import failure_from
from libs.docker_runner.containers.run_folders import HEAD_BOUNDS
from tests.support.rigs.bot_process import (
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
    "default-object": ("main.js", "exports.default = { main: (id, config) => [id, config.x] }"),
    "default-twice": ("main.mjs", "export default { default: (id, config) => [id, config.x] }"),
    "default-object-twice": ("main.mjs", "export default { default: { main: (id, config) => [id, config.x] } }"),
    "async-function": ("main.js", "module.exports = async (id, config) => [id, config.x]"),
    "method": ("main.js", "module.exports = { own: 1, main(id, config) { return [id, config.x * this.own] } }"),
    "object-of-a-class": (
        "main.js",
        "class Bot { own = 1; main(id, config) { return [id, config.x * this.own] } }; module.exports = new Bot()",
    ),
    "mjs-default-method": (
        "main.mjs",
        "export default { own: 1, async main(id, config) { return [id, config.x * this.own] } }",
    ),
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
def test_uncaught_error_ends_the_bot(tmp_path: Path, body: str) -> None:
    done = run(tmp_path, exported(body))
    assert (done.exit_code, done.last) == (1, {"status": "error", "message": "late"})


def test_a_main_that_waits_for_nothing_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, exported("return new Promise(() => {})"))
    assert done.exit_code == 1
    assert "never finished" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "never-finished"


def test_undefined_gives_null_and_so_does_nan(tmp_path: Path) -> None:
    assert run(tmp_path / "1", exported("")).lines == ["null"]
    assert run(tmp_path / "2", exported("return [NaN, Infinity, undefined]")).lines == ["[null,null,null]"]


def test_result_that_is_not_json_is_reported_as_such(tmp_path: Path) -> None:
    done = run(tmp_path, exported("const a = {}; a.a = a; return a"))
    assert done.exit_code == 1
    assert "not JSON" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "result-not-json"


def test_result_over_the_limit_is_reported_as_such(tmp_path: Path) -> None:
    done = run(tmp_path, exported("return 'x'.repeat(5000)"), result_bytes=1000)
    assert done.exit_code == 1
    assert "more than 1000 bytes" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "result-too-large"


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
    assert (seen["ID"], seen["CONFIG"]) == ("b1", "{}")
    assert (seen["ENTRYPOINT_TYPE"], seen["SCRIPT_PATH"]) == ("backtest", "main.js")
    assert (seen["CODE_MOUNT_DIR"], seen["cwd"]) == (code, code)
    assert "BOT_ID" not in seen


def test_a_missing_entrypoint_file_is_a_clear_error(tmp_path: Path) -> None:
    done = BotProcess(tmp_path, "nodejs20", {"a.js": ""}, "nope.js").run()
    assert done.exit_code == 1
    assert "'nope.js' is not in the bot's archive" in done.last["message"]
    assert done.outcome["failure"]["reason"] == "entrypoint-missing"


def test_a_script_without_main_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, "const x = 1")
    assert done.exit_code == 1
    assert "exports no function main(id, config)" in done.last["message"]
    assert (done.outcome["failure"]["reason"], done.outcome["failure"]["type"]) == ("main-missing", "")


ENTRYPOINTS = [
    ("main", "main.js", "exports.main = () => 1"),
    ("main", "main.mjs", "export const main = () => 1"),
    ("main", "main.cjs", "exports.main = () => 1"),
    ("dist/index", "dist/index.js", "exports.main = () => 1"),
    ("a.b", "a.b.js", "exports.main = () => 1"),
    ("main", "main", "exports.main = () => 1"),
]


@pytest.mark.parametrize(("named", "file", "source"), ENTRYPOINTS)
def test_an_entrypoint_may_lack_its_suffix(tmp_path: Path, named: str, file: str, source: str) -> None:
    done = BotProcess(tmp_path, "nodejs20", {file: source}, named).run()
    assert (done.exit_code, done.lines) == (0, ["1"])


def test_an_entrypoint_without_a_suffix_follows_the_type_of_its_package(tmp_path: Path) -> None:
    files = {"package.json": '{"type": "module"}', "index.js": "export default () => [process.env.SCRIPT_PATH]"}
    assert BotProcess(tmp_path, "nodejs20", files, "index").run().last == ["index"]


def test_the_file_that_is_named_comes_before_one_with_a_suffix(tmp_path: Path) -> None:
    files = {"main": "exports.main = () => 'exact'", "main.js": "exports.main = () => 'suffix'"}
    assert BotProcess(tmp_path, "nodejs20", files, "main").run().last == "exact"


def test_a_folder_of_the_same_name_is_not_in_the_way(tmp_path: Path) -> None:
    files = {"main/x.js": "", "main.js": "exports.main = () => 1"}
    assert BotProcess(tmp_path, "nodejs20", files, "main").run().last == 1


@pytest.mark.parametrize(
    ("thrown", "failure", "message"),
    [
        (
            "new Error('order size is larger than the limit')",
            {"type": "Error", "message": "order size is larger than the limit"},
            "order size is larger than the limit",
        ),
        ("new RangeError('no')", {"type": "RangeError", "message": "no"}, "no"),
        ("new (class Refused extends Error {})('no')", {"type": "Refused", "message": "no"}, "no"),
        ("new TypeError()", {"type": "TypeError", "message": ""}, "TypeError"),
        ("'a text'", {"type": "", "message": "a text"}, "a text"),
        ("{ code: 7 }", {"type": "", "message": "{ code: 7 }"}, "{ code: 7 }"),
        ("null", {"type": "", "message": "null"}, "null"),
        ("undefined", {"type": "", "message": "undefined"}, "undefined"),
    ],
)
def test_an_error_is_noted_with_its_type_and_message(
    tmp_path: Path, thrown: str, failure: dict[str, str], message: str
) -> None:
    done = run(tmp_path, exported(f"throw {thrown}"))
    assert (done.exit_code, done.outcome["kind"]) == (1, "error")
    assert done.outcome["failure"] == {"reason": "exception", "hint": "", **failure}
    assert done.last == {"status": "error", "message": message}


@pytest.mark.parametrize(
    "text", ["'x'.repeat(3e6)", "'😀'.repeat(9999)", r"'\0\n\"'.repeat(9999)", r"'\ud800'.repeat(9999)"]
)
def test_the_note_of_an_error_is_short_enough_to_be_read(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, exported(f"const e = new Error({text}); e.name = 'E'.repeat(9999); throw e"))
    head, _, _ = (tmp_path / "the0" / "private" / "outcome").read_bytes().partition(b"\n")
    parsed = parse(head, HEAD_BOUNDS)
    assert isinstance(parsed, Parsed)
    assert failure_from(parsed.value["failure"]) is not None  # type: ignore[index]
    assert len(done.outcome["failure"]["message"]) > 100
    assert done.outcome["failure"]["type"].startswith("EEE")


@pytest.mark.parametrize("note", ["E", "E\n", "Exyz\n{}", "E[1]\n{}", 'E{"reason": 1}\n{}', "E" + "[" * 9999 + "\n{}"])
def test_a_note_that_the_bot_makes_up_leaves_a_head_that_can_be_read(tmp_path: Path, note: str) -> None:
    done = run(tmp_path, exported(f"require('fs').writeSync(3, {json.dumps(note)}); process.exit(1)"))
    assert (done.exit_code, done.outcome["reason"]) == (1, "exit")
    assert done.outcome.get("failure", {}) == {}


def test_process_exit_zero_leaves_no_result_and_no_failure(tmp_path: Path) -> None:
    done = run(tmp_path, exported("process.exit(0)"))
    assert (done.exit_code, done.lines, done.outcome["kind"]) == (0, [], "none")


GLIBC = (
    "const e = new Error('Error loading shared library ld-linux-x86-64.so.2: No such file or directory (needed by "
    "/bot/node_modules/@a/fast/build/Release/fast.node)'); e.code = 'ERR_DLOPEN_FAILED'; throw e"
)
HINTS = {
    "require": ("main.js", "require('axios')", {}, "npm install axios"),
    "require-inside": ("main.js", "require('ccxt/js/pro')", {}, "npm install ccxt"),
    "scope": ("main.js", "require('@scope/one/two')", {}, "npm install @scope/one"),
    "import": ("main.mjs", "import axios from 'axios'", {}, "npm install axios"),
    "in-main": ("main.js", "exports.main = () => require('axios')", {}, "npm install axios"),
    "dynamic": ("main.mjs", "export const main = () => import('axios')", {}, "npm install axios"),
    "of-a-package": ("main.js", "require('dep')", {"node_modules/dep/index.js": "require('dap')"}, "npm install dap"),
    "cause": (
        "main.js",
        "try { require('axios') } catch (cause) { throw new Error('no axios', { cause }) }",
        {},
        "npm install axios",
    ),
    "glibc": ("main.js", GLIBC, {}, "the compiled part of '@a/fast' does not suit Node"),
    "damaged": (
        "main.js",
        "require('dep/dep.node')",
        {"node_modules/dep/dep.node": "no library"},
        'docker run --rm -v "$PWD":/bot -w /bot node:',
    ),
}


@pytest.mark.parametrize("form", list(HINTS))
def test_module_that_cannot_be_loaded_is_reported_with_the_fixing_command(tmp_path: Path, form: str) -> None:
    script, source, files, words = HINTS[form]
    done = BotProcess(tmp_path, "nodejs20", {script: source, **files}, script).run()
    assert done.exit_code == 1
    assert words in done.outcome["failure"]["hint"]
    assert done.outcome["failure"]["reason"] == "exception"
    assert done.stderr.decode().splitlines()[-1] == f"hint: {done.outcome['failure']['hint']}"
    assert set(done.last) == {"status", "message"}


@pytest.mark.parametrize(
    "source",
    [
        "require('./own')",
        "require('no; rm -rf ~')",
        "require('node:nope')",
        "throw new Error(\"Cannot find module 'axios'\")",
        "throw { get code() { throw 1 } }",
    ],
)
def test_failure_without_a_remedy_has_no_hint(tmp_path: Path, source: str) -> None:
    done = run(tmp_path, source)
    assert (done.exit_code, done.outcome["failure"]["hint"]) == (1, "")
    assert b"hint:" not in done.stderr


def test_syntax_error_is_reported_with_its_file(tmp_path: Path) -> None:
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
    "process.on('SIGTERM', () => console.log('got SIGTERM'));" + WAITING + "return new Promise(() => {})", "async"
)


def test_a_lease_that_runs_out_ends_even_a_bot_that_ignores_sigterm(tmp_path: Path) -> None:
    # How quickly is the best of three, for the sake of machines that are busy.
    for attempt in range(3):
        done, late_seconds = outlive_lease(bot(tmp_path / str(attempt), IGNORES, keepalive_ttl_seconds=60.0))
        assert (done.exit_code, done.outcome["reason"]) == (75, "lease-lost")
        assert late_seconds > -0.05
        if done.lines == ["got SIGTERM"] and late_seconds < 0.6:
            return
    pytest.fail(f"it was {late_seconds:.2f} s late, and printed {done.lines}")


def test_a_lease_that_is_renewed_keeps_the_bot(tmp_path: Path) -> None:
    source = exported("console.log('up'); return new Promise((r) => setTimeout(() => r('alive'), 3000))")
    one = bot(tmp_path, source, keepalive_ttl_seconds=60.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 3)
    # So that it is seen; the bot gets SIGTERM only after more than two seconds.
    time.sleep(0.4)
    write_lease(one, uptime() + 60, ttl=60.0, counter=1)
    assert one.finish(process).last == "alive"


def test_a_container_that_starts_after_its_lease_never_starts_the_bot(tmp_path: Path) -> None:
    one = bot(tmp_path, IGNORES, keepalive_ttl_seconds=5.0)
    write_lease(one, uptime() - 1)
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (75, [])


def test_container_that_starts_when_its_lease_is_nearly_over_never_starts_the_bot(tmp_path: Path) -> None:
    # The deadline is half a second ahead when the bot would start, however long the interpreter's start takes.
    one = bot(tmp_path, IGNORES, keepalive_ttl_seconds=0.5)
    write_lease(one, uptime() + 600, ttl=0.5)
    done = one.finish(one.start())
    assert (done.exit_code, done.lines) == (75, [])
    assert b"not starting" in done.stderr


def test_under_another_kernel_a_file_that_does_not_change_ends_the_bot(tmp_path: Path) -> None:
    one = bot(tmp_path, IGNORES, keepalive_ttl_seconds=60.0)
    write_lease(one, 1e9, ttl=60.0, boot_id="another-kernel")
    process = one.start()
    first_line(process)
    written = time.monotonic()
    write_lease(one, 1e9, ttl=1.5, boot_id="another-kernel", counter=1)
    assert one.finish(process).exit_code == 75
    assert 1.4 < time.monotonic() - written < 30


def test_switch_fires_while_the_output_is_not_read(tmp_path: Path) -> None:
    one = bot(tmp_path, exported("while (true) console.log('x'.repeat(1000))"), keepalive_ttl_seconds=60.0)
    process = one.start()
    first_line(process)
    write_lease(one, uptime() + 1.2)
    assert process.wait(timeout=60) == 75
    process.communicate()
