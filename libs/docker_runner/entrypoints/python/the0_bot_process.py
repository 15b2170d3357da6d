"""The bot's own process: loads its entrypoint, calls ``main(id, config)`` and hands what comes of it to the init.

Everything here runs before the bot's first line, so it imports only what the interpreter has loaded anyway. ``_signal``
and ``_json`` are the C halves of ``signal`` and ``json``.

Measured, start to end of ``python3 -I -S -B`` in a container of Python 3.11, median of 60, and resident memory:

=================================  ===============  ===============
imports                            with bytecode    without
=================================  ===============  ===============
``_signal``, ``_json``             7 ms, 7.8 MB     25 ms, 8.4 MB
``signal``, ``json``               13 ms, 9.1 MB    117 ms, 11.9 MB
=================================  ===============  ===============

Images without bytecode are common: the official ones of Python contain none.
"""

import _json
import _signal  # type: ignore[import-not-found]
import atexit
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

# As `inspect` has them.
VARARGS, VARKEYWORDS = 0x04, 0x08
# What sandbox/init/result.c takes: the descriptor, and the bytes of each note as JSON.
RESULT_DESCRIPTOR = 3
NOTE_BYTES = {"reason": 50, "type": 250, "message": 1700, "hint": 1000}

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module takes longer to load than all others together
    from typing import Any, NoReturn


class Terminated(SystemExit):
    """SIGTERM, as an exception in ``main``: let it pass, after cleaning up in ``finally``."""

    def __init__(self) -> None:
        super().__init__(128 + _signal.SIGTERM)


class BotError(Exception):
    """The bot cannot be run; reported without a traceback, which would show only frames of this program.

    The reason is a word of ``FailureReason``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class JsonContext:
    """What the C scanner asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def parse_json(text: str) -> "Any":
    """The value of *text*, which is JSON without space around it, at the speed of ``json`` and without its import."""
    try:
        value, end = _json.make_scanner(JsonContext)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except (StopIteration, ValueError, TypeError, AttributeError):
        pass
    import json

    return json.loads(text)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def main() -> "NoReturn":
    """The life of the process whose arguments are those of start.py."""
    try:
        del sys.path[0]  # ours; see start.py
        base = sys.argv[1]
        os.set_inheritable(RESULT_DESCRIPTOR, False)
        config_text = read(base + "/spec/config.json")
        run(parse_json(read(base + "/spec/spec.json")), config_text, parse_json(config_text))
    except BaseException:  # noqa: BLE001 - any error is reported
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def run(spec: "dict[str, Any]", config_text: str, config: "Any") -> "NoReturn":
    """Run the bot to its end, which is the end of this process."""
    termination = Termination()
    prepare(spec, config_text)
    kind, value, code = b"", b"", 0
    try:
        # Until here the signal ends the process: there is nothing that it could interrupt.
        _signal.signal(_signal.SIGTERM, termination.handle)
        returned = call(spec, config, termination)
        termination.disarm()
        kind, value = b"R", encode(returned)
    except SystemExit as error:
        termination.disarm()
        code = exit_code(error)
    except BaseException as error:  # noqa: BLE001 - every error is reported, and ends this process
        termination.disarm()
        if termination.asked and type(error).__name__ == "CancelledError":
            code = 128 + _signal.SIGTERM
        else:
            kind, value, code = b"E", failure(error), 1
    finish(kind + value, code)


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
        "ID": spec["id"].encode("utf-8", "replace").replace(b"\0", b""),
        "CONFIG": config_text.encode(),
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
    # A line is seen when it is printed; and the bot may print any text in any locale of the image.
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = open(  # noqa: SIM115 - for the life of the process
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.meta_path.insert(0, LoggingAtInfo)


class LoggingAtInfo:
    """Finds the module ``logging`` when the bot imports it, and shows INFO and above on stderr from then on.

    The bot's log would lack them: Python shows WARNING and above. A handler would do, but with one on the root logger
    ``basicConfig`` by the bot has no effect, and a handler of the bot's own shows each line again. So this lowers the
    level of the handler of last resort, which is used while there is no other. To import ``logging`` here, where most
    bots do not need it, would delay the first line.
    """

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name != "logging":
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec.loader if spec is not None else None
        if isinstance(loader, SourceFileLoader):
            execute = loader.exec_module

            def exec_module(module: "Any") -> None:
                del loader.exec_module
                execute(module)
                cls.show(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    @staticmethod
    def show(logging: "Any") -> None:
        try:
            last_resort, root = logging.lastResort, logging.root
            last_resort.setLevel(logging.INFO)
            last_resort.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
            root.setLevel(logging.INFO)
        except AttributeError:
            # A file of the bot's own that has the name.
            return


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
        raise BotError("entrypoint-missing", f"entrypoint file {script!r} is not in the bot's archive")
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
        raise BotError("main-missing", f"{script!r} has no function main(id, config)")
    arguments, keywords = arguments_for(main, spec["id"], config)
    returned = main(*arguments, **keywords)
    if not hasattr(returned, "__await__"):
        return returned
    import asyncio

    return asyncio.run(termination.cancel_on_signal(returned))


def arguments_for(main: "Any", bot_id: str, config: "Any") -> "tuple[tuple[Any, ...], dict[str, Any]]":
    """What *main* is called with: id and config, by position or else by name, or nothing."""
    both: tuple[tuple[Any, ...], dict[str, Any]] = ((bot_id, config), {})
    if type(main) is type(arguments_for) and not hasattr(main, "__wrapped__") and not hasattr(main, "__signature__"):
        # The plain functions that nearly all bots have; for the others the module `inspect` is worth its time.
        code = main.__code__
        required = code.co_argcount - len(main.__defaults__ or ())
        takes_two = required <= 2 and (code.co_argcount >= 2 or code.co_flags & VARARGS)
        if takes_two and not code.co_kwonlyargcount:
            return both
        if not code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & (VARARGS | VARKEYWORDS):
            return (), {}
    import inspect

    try:
        signatures = [inspect.signature(main), inspect.signature(main, follow_wrapped=False)]
    except (TypeError, ValueError):
        # One in C, which does not say.
        return both
    # A decorator may take more than what it wraps, or less: best is what suits both.
    for some in (signatures, signatures[1:]):
        for arguments, keywords in (both, ((), {"id": bot_id, "config": config}), ((), {})):
            try:
                for signature in some:
                    signature.bind(*arguments, **keywords)
            except TypeError:
                continue
            return arguments, keywords
    parameters = ", ".join(signatures[0].parameters)
    raise BotError("signature", f"main({parameters}) cannot be called: write main(id, config), or main() without any")


def encode(value: "Any") -> bytes:
    """*value* as JSON; NaN and infinities become null, since JSON has none."""
    try:
        try:
            return dumps(value)
        except ValueError:
            return dumps(without_nan(value))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BotError("result-not-json", f"main returned something that is not JSON: {error}") from None


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
    """What the init is to note about the error, and below it the last line, once the traceback is on stderr."""
    message = message_of(error)
    note = {"message": message}
    if isinstance(error, BotError):
        note["reason"] = error.reason
        print(error, file=sys.stderr)  # noqa: T201 - stderr is the bot's log
    else:
        note.update(reason="exception", type=type_name(error))
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
            trace = trace.tb_next
        error.__traceback__ = trace
        try:
            sys.excepthook(type(error), error, trace)
        except Exception:  # noqa: BLE001 - the bot's own hook is broken
            sys.__excepthook__(type(error), error, trace)
    hint = hint_for(error) if note["reason"] == "exception" else ""
    if hint:
        note["hint"] = hint
        print("hint:", hint, file=sys.stderr)  # noqa: T201
    lines = "".join(note_line(name, text) for name, text in note.items())
    return lines.encode() + b"\n" + dumps({"status": "error", "message": message or type(error).__name__})


def note_line(name: str, text: str) -> str:
    """A note as the init takes it: a line with a string of JSON, so short that the worker reads it."""
    text = text[: NOTE_BYTES[name]]
    while len(encoded := _json.encode_basestring_ascii(text)) > NOTE_BYTES[name]:
        text = text[: len(text) * NOTE_BYTES[name] // len(encoded)]
    return f"{name}={encoded}\n"


def message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the bot's own __str__ is broken
        return ""


def type_name(error: BaseException) -> str:
    """The type as a traceback names it."""
    module, name = type(error).__module__, type(error).__qualname__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def hint_for(error: BaseException) -> str:
    """What mends the error, with the command; empty when that is not known."""
    try:
        # Beside this file; the folder is not on the bot's path.
        hints = type(sys)("the0_hints")
        SourceFileLoader("the0_hints", os.path.join(os.path.dirname(__file__), "the0_hints.py")).exec_module(hints)
        return str(hints.hint_for(error))
    except Exception:  # noqa: BLE001 - the error must be reported in any state of this process
        return ""


def exit_code(error: SystemExit) -> int:
    """What the interpreter makes of ``sys.exit(x)``."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def finish(result: bytes, code: int) -> "NoReturn":
    """Bring everything out and end at once: threads that the bot left would keep the interpreter alive."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    left = memoryview(result)
    while left:
        left = left[os.write(RESULT_DESCRIPTOR, left) :]
    os._exit(code)
