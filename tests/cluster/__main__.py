"""The commands `tests/cluster/up` and `tests/cluster/down`."""

import asyncio
import sys

from tests.cluster.errors import ClusterFailedError, ClusterUnavailableError
from tests.cluster.lifetime import down, up
from tools.debian.packages import to_stderr


async def _main(command: str) -> None:
    match command:
        case "up":
            print(f"TEST_KUBECONFIG={await up(to_stderr)}")
        case "down":
            await down(to_stderr)
        case _:
            sys.exit(f"no such command: {command}")


if __name__ == "__main__":
    try:
        asyncio.run(_main(sys.argv[1]))
    except (ClusterFailedError, ClusterUnavailableError) as error:
        sys.exit(f"tests/cluster/{sys.argv[1]}: {error}")
