"""The process that answers queries: runs the entrypoint ``query`` as a program, beside the bot or once.

Beside the bot, the program serves HTTP until the process is ended. In a container of its own it answers one question
and leaves the answer in a file, which this process hands to the init as a result.
"""

import os
import sys

PORT = "9476"
ANSWER = "/query/result.json"
# Where bots of the published SDK have their state.
STATE = "/state/.the0-state"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """The life of the process whose arguments are those of start.py."""
    # Beside this file; on the path for as long as that is start.py's.
    import the0_bot_process as bot  # type: ignore[import-not-found]  # pants: no-infer-dep

    del sys.path[0]  # the folder of this file; see start.py
    base = sys.argv[1]
    os.set_inheritable(bot.RESULT_DESCRIPTOR, False)
    config_text = bot.read(base + "/spec/config.json")
    spec = bot.parse_json(bot.read(base + "/spec/spec.json"))
    question = spec["question"]
    spec["script"] = spec["query"]
    bot.prepare(spec, config_text)
    os.environ["ENTRYPOINT_TYPE"] = "query"
    os.environ.setdefault("STATE_DIR", STATE)
    if question is None:
        # Empty: the SDK serves, and refuses to change the state.
        os.environ.update(BOT_TYPE="realtime", THE0_QUERY_PORT=PORT, QUERY_PATH="")
        run(spec)
    else:
        os.environ.update(QUERY_PATH=question["path"], QUERY_PARAMS=question["parameters"])
        answer(bot, spec)


def run(spec: "dict[str, Any]") -> None:
    """Run the program as ``__main__``; its end is the end of the process."""
    path = os.path.join(spec["mount"], spec["script"])
    if not os.path.isfile(path):
        sys.exit(f"entrypoint file {spec['script']!r} is not in the bot's archive")
    module = type(sys)("__main__")
    module.__file__ = path
    vars(module)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec"), vars(module))  # noqa: S102 - that is what it is for


def answer(bot: "Any", spec: "dict[str, Any]") -> None:
    """Run the program once, and hand over its answer, with any exit code; without an answer, its error."""
    result, code = b"", 0
    try:
        run(spec)
    except SystemExit as error:
        code = bot.exit_code(error)
    except BaseException as error:  # noqa: BLE001 - any of them is reported
        result, code = b"E" + bot.failure(error), 1
    try:
        with open(ANSWER, "rb") as file:
            result, code = b"R" + file.read(), 0
    except OSError:
        pass
    bot.finish(result, code)
