"""Run a service of a former release: `python -m tests.upgrade.run_former FOLDER tools.cli SERVICE ROLE OPTION...`.

The form in which a deployment starts a process under another module. This module imports nothing of the present code.
"""

import os
import runpy
import sys


def main() -> None:
    """See the module."""
    folder, _, service, *arguments = sys.argv[1:]
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    module = f"services.{service.replace('-', '_')}"
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
