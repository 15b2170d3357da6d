"""What the container runs: the supervisor as a module, since a script is compiled anew at each start."""

import os
import sys

if __name__ == "__main__":
    # The files beside this one are imported when they are needed: after the bot's first line, if that can be.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import the0_supervisor  # type: ignore[import-not-found]  # pants: no-infer-dep

    os._exit(the0_supervisor.main())
