"""What mends an error of an import, with the command. Loaded only when a bot has failed.

It goes by the type and the fields of the exception and by what lies in the folders of the bot, never by a message.
"""

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module takes longer to load than all others together
    from collections.abc import Iterator

COMPILED = (".so", ".pyd", ".dylib")
MOST_ERRORS = 10
RECORD_BYTES = 1 << 20

# Modules whose package has another name: to install one of the module's name would not help, or do harm.
DISTRIBUTIONS = {
    "Crypto": "pycryptodome",
    "PIL": "pillow",
    "binance": "python-binance",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "jwt": "PyJWT",
    "nacl": "PyNaCl",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "talib": "TA-Lib",
    "telegram": "python-telegram-bot",
    "the0": "the0-sdk",
    "websocket": "websocket-client",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def hint_for(error: BaseException) -> str:
    """One sentence with the command that mends *error*; empty when none is known."""
    for one in chain(error):
        if isinstance(one, ImportError) and (found := hint_for_import(one)):
            return found
    return ""


def chain(error: BaseException) -> "Iterator[BaseException]":
    """The error and what it was raised from, as a traceback shows them."""
    current: BaseException | None = error
    for _ in range(MOST_ERRORS):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def hint_for_import(error: ImportError) -> str:
    name = error.name
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        # It is to become a part of a command.
        return ""
    top = name.partition(".")[0]
    missing = isinstance(error, ModuleNotFoundError)
    path = error.path
    if not missing and isinstance(path, str) and path.endswith(COMPILED):
        return compiled_elsewhere(path, top)
    foreign = foreign_file(name.rpartition(".")[0], name.rpartition(".")[2]) if missing else foreign_file(name)
    if foreign is not None:
        return compiled_elsewhere(foreign, top)
    if not missing or top in sys.stdlib_module_names or is_there(top):
        return ""
    package = distribution_of(top)
    return (
        f"module {top!r} is not in the archive; add the package in the folder of the bot and deploy again: "
        f"pip install --target vendor {package}"
    )


def foreign_file(package: str, stem: str | None = None) -> str | None:
    """A compiled module in *package* that this Python does not take: the one of that *stem*, or any."""
    for folder in sys.path:
        directory = os.path.join(folder, *package.split(".")) if package else folder
        foreign, usable = {}, set()
        for file in files_of(directory):
            name, _, suffix = file.partition(".")
            if not file.endswith(COMPILED) or stem not in (None, name):
                continue
            if "." + suffix in EXTENSION_SUFFIXES:
                usable.add(name)
            else:
                foreign[name] = os.path.join(directory, file)
        for name, path in foreign.items():
            if name not in usable:
                return path
    return None


def compiled_elsewhere(path: str, top: str) -> str:
    """The hint about a compiled module that does not suit this Python, or this system."""
    tag = os.path.basename(path).partition(".")[2].rpartition(".")[0]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    machine = os.uname().machine
    command = f"pip install --target vendor --upgrade --python-version {version} --only-binary=:all:"
    if not tag.endswith(f"-{machine}-linux-gnu"):
        command += f" --platform manylinux2014_{machine}"
    return (
        f"{os.path.basename(path)} was compiled for another Python or system; here is Python {version} on Linux "
        f"{machine}; replace the package in the folder of the bot and deploy again: {command} {distribution_of(top)}"
    )


def distribution_of(top: str) -> str:
    """The name under which the package of the module *top* is installed."""
    for folder in sys.path:
        for entry in files_of(folder):
            if entry.endswith(".dist-info") and has_module(os.path.join(folder, entry, "RECORD"), top):
                name = entry.partition("-")[0]
                if name.replace("_", "").replace(".", "").isalnum():
                    return name
    return DISTRIBUTIONS.get(top, top)


def has_module(record: str, top: str) -> bool:
    try:
        with open(record, encoding="utf-8", errors="replace") as file:
            text = "\n" + file.read(RECORD_BYTES)
    except OSError:
        return False
    return f"\n{top}/" in text or f"\n{top}." in text


def is_there(top: str) -> bool:
    return any(
        os.path.isdir(os.path.join(folder, top)) or os.path.isfile(os.path.join(folder, top + ".py"))
        for folder in sys.path
    )


def files_of(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
