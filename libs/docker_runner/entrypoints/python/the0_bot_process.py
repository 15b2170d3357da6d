"""The bot's own process: loads its entrypoint, calls ``main(id, config)`` and hands what comes of it to the supervisor.

Everything here runs before the bot's first line, so it imports next to nothing; see ``the0_supervisor.py``.
"""

import _json
import _signal  # type: ignore[import-not-found]
import atexit
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module takes longer to load than all others together
    from typing import Any, NoReturn


class Terminated(SystemExit):
    """SIGTERM, as an exception in ``main``: let it pass, after cleaning up in ``finally``."""

    def __init__(self) -> None:
        super().__init__(128 + _signal.SIGTERM)


class BotError(Exception):
    """The bot cannot be run as it is; told without a traceback, which would show only our own frames."""


def run(spec: "dict[str, Any]", config_text: str, config: "Any", result_writer: int, blocked: set[int]) -> "NoReturn":
    """Run the bot to its end, which is the end of this process."""
    termination = Termination()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.signal(_signal.SIGHUP, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.signal(_signal.SIGTERM, termination.handle)
    prepare(spec, config_text)
    kind, value, code = b"", b"", 0
    try:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, blocked)
        returned = call(spec, config, termination)
        termination.disarm()
        kind, value = b"R", encode(returned)
    except SystemExit as error:
        termination.disarm()
        code = exit_code(error)
    except BaseException as error:  # noqa: BLE001 - whatever ends the bot is told, and ends this process
        termination.disarm()
        if termination.asked and type(error).__name__ == "CancelledError":
            code = 128 + _signal.SIGTERM
        else:
            kind, value, code = b"E", failure(error), 1
    finish(kind + value, code, result_writer)


class Termination:
    """What SIGTERM does: once, and only while the bot's own code runs, it interrupts that code."""

    def __init__(self) -> None:
        self.asked = False
        self._armed = True

    def handle(self, *_: object) -> None:
        if self._armed:
            self._armed, self.asked = False, True
            raise Terminated

    def disarm(self) -> None:
        self._armed = False

    async def cancel_on_signal(self, main: "Any") -> "Any":
        """Await *main*; SIGTERM cancels it."""
        import asyncio

        task = asyncio.current_task()

        def cancel() -> None:
            if not self.asked and task is not None:
                self.asked = True
                task.cancel()

        asyncio.get_running_loop().add_signal_handler(_signal.SIGTERM, cancel)
        return await main


def prepare(spec: "dict[str, Any]", config_text: str) -> None:
    """The process as a bot expects to find it."""
    mount = spec["mount"]
    prefix = spec["entrypoint"].upper()
    environment = {
        prefix + "_ID": spec["id"].encode("utf-8", "replace").replace(b"\0", b""),
        prefix + "_CONFIG": config_text.encode(),
        "ENTRYPOINT_TYPE": spec["entrypoint"].encode(),
        "SCRIPT_PATH": spec["script"].encode("utf-8", "replace"),
        "CODE_MOUNT_DIR": mount.encode(),
        "PYTHONDONTWRITEBYTECODE": b"1",
    }
    if spec["traceparent"]:
        environment["TRACEPARENT"] = spec["traceparent"].encode()
    for name, value in environment.items():
        os.environb[name.encode()] = value
    script = os.path.join(mount, spec["script"])
    vendor = os.path.join(mount, "vendor")
    first = [vendor] if os.path.isdir(vendor) else []
    for folder in (mount, os.path.dirname(script)):
        if folder not in first:
            first.append(folder)
    sys.path[:] = first + sys.path + installed()
    sys.argv[:] = [script]
    os.chdir(mount)
    # What the module `site` gives, which is not loaded.
    builtins: Any = sys.modules["builtins"]
    builtins.exit = builtins.quit = sys.exit
    # A line is seen when it is printed; and the bot may print any text, whatever the image's locale.
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = open(  # noqa: SIM115 - for the life of the process
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def installed() -> list[str]:
    """The image's own packages, which `site` would have found."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = (
        f"{sys.prefix}/local/lib/{version}/dist-packages",
        f"{sys.prefix}/lib/{version}/site-packages",
        f"{sys.prefix}/lib/python3/dist-packages",
    )
    return [path for path in candidates if os.path.isdir(path)]


def call(spec: "dict[str, Any]", config: "Any", termination: Termination) -> "Any":
    """What the bot's ``main`` returned."""
    script = spec["script"]
    path = os.path.join(spec["mount"], script)
    if not os.path.isfile(path):
        raise BotError(f"entrypoint file {script!r} is not in the bot's archive")
    name = os.path.basename(path).partition(".")[0]
    if name in sys.stdlib_module_names or not name:
        name = "bot_" + name
    loader = SourceFileLoader(name, path)
    module = type(sys)(name)
    module.__file__ = path
    module.__loader__ = loader
    module.__spec__ = ModuleSpec(name, loader, origin=path)
    module.__spec__.has_location = True
    sys.modules[name] = module
    loader.exec_module(module)
    main = getattr(module, "main", None)
    if not callable(main):
        raise BotError(f"{script!r} has no function main(id, config)")
    returned = main(spec["id"], config)
    if not hasattr(returned, "__await__"):
        return returned
    import asyncio

    return asyncio.run(termination.cancel_on_signal(returned))


def encode(value: "Any") -> bytes:
    """*value* as JSON; NaN and infinities become null, since JSON has none."""
    try:
        try:
            return dumps(value)
        except ValueError:
            return dumps(without_nan(value))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BotError(f"main returned something that is not JSON: {error}") from None


def dumps(value: "Any") -> bytes:
    """As ``json.dumps(value, allow_nan=False)``, by the C code beneath it."""
    if "json" not in sys.modules:
        try:
            encoder = _json.make_encoder(
                {}, plain, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False
            )
        except (AttributeError, TypeError):
            pass
        else:
            return "".join(encoder(value, 0)).encode()
    import json

    return json.dumps(value, allow_nan=False, default=plain).encode()


def plain(value: "Any") -> "Any":
    """Arrays and numbers of numpy, dates and times, which backtests like to return."""
    for method in ("tolist", "isoformat"):
        if callable(getattr(value, method, None)) and not isinstance(value, type):
            return getattr(value, method)()
    raise TypeError(f"an object of type {type(value).__name__}")


def without_nan(value: "Any") -> "Any":
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return without_nan(plain(value))


def failure(error: BaseException) -> bytes:
    """The error as the last line says it, once its traceback is on stderr."""
    if isinstance(error, BotError):
        print(error, file=sys.stderr)  # noqa: T201 - stderr is the bot's log
    else:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
            trace = trace.tb_next
        error.__traceback__ = trace
        try:
            sys.excepthook(type(error), error, trace)
        except Exception:  # noqa: BLE001 - the bot's own hook is broken
            sys.__excepthook__(type(error), error, trace)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the bot's own __str__ is broken
        message = ""
    return dumps({"status": "error", "message": message or type(error).__name__})


def exit_code(error: SystemExit) -> int:
    """What the interpreter makes of ``sys.exit(x)``."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def finish(result: bytes, code: int, result_writer: int) -> "NoReturn":
    """Bring everything out and end at once: threads that the bot left would keep the interpreter alive."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    while result:
        result = result[os.write(result_writer, result) :]
    os._exit(code)
