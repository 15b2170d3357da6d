"""Run a module of a service as in the service's image: in `ENVIRONMENT`, without packages that the image does not have.

    python -m tests.benchmarks.as_in_image MODULE [ARGUMENTS...]

structlog imports `rich` and `greenlet` where they are installed, as they are for the `runtime` command and for tests in
a browser: 4 MB that no image has.
"""

import runpy
import sys

ENVIRONMENT = {"PYTHONOPTIMIZE": "2", "PYDANTIC_DISABLE_PLUGINS": "1"}
"""From Dockerfile.base; to be set before the process starts."""

_ABSENT = ("rich", "greenlet")


def main() -> None:
    del sys.argv[0]
    for name in _ABSENT:
        sys.modules[name] = None  # type: ignore[assignment]  # to import it raises ImportError
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
