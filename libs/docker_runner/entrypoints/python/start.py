"""What the init starts: the bot's process as a module, since a script is compiled anew at each start."""

import os
import sys

if __name__ == "__main__":
    # The files beside this one are imported when they are needed: after the bot's first line, if that can be.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[2:] == ["query"]:
        import the0_query_process as the0_process  # type: ignore[import-not-found]  # pants: no-infer-dep
    else:
        import the0_bot_process as the0_process  # type: ignore[import-not-found]  # pants: no-infer-dep

    the0_process.main()
