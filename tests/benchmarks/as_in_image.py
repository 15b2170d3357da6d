"""Run a module of a service without packages that the service's image does not have.

    python -m tests.benchmarks.as_in_image MODULE [ARGUMENTS...]

structlog imports `rich` where it is installed, as it is for the `runtime` command: 3 MB that no image has.
"""

import runpy
import sys

_ABSENT = "rich"


def main() -> None:
    del sys.argv[0]
    sys.modules[_ABSENT] = None  # type: ignore[assignment]  # to import it raises ImportError
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
