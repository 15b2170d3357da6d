"""Create MongoDB's users: one for the masters and one for the workers of each service. May be repeated.

Each may change the database of its own service. Masters may read those of the others, to know which code is in use;
workers may not. A password of the environment that has changed is set.
"""

import os

from pymongo import MongoClient

SERVICES = ("bot-runner", "backtest-runner", "bot-scheduler")


def roles_of(service: str, role: str) -> list[dict[str, str]]:
    """Return the roles of one user."""
    own, *others = sorted(SERVICES, key=lambda one: one != service)
    roles = [{"role": name, "db": own.replace("-", "_")} for name in ("readWrite", "dbAdmin")]
    if role == "master":
        roles += [{"role": "read", "db": other.replace("-", "_")} for other in others]
    return roles


def main() -> None:
    """Create or update all of them."""
    with MongoClient[dict[str, object]](os.environ["MONGO_URI"], serverSelectionTimeoutMS=60_000) as client:
        admin = client["admin"]
        known = {user["user"] for user in admin.command("usersInfo")["users"]}
        for service in SERVICES:
            for role in ("master", "worker"):
                name = f"{service}-{role}"
                password = os.environ["MONGO_PASSWORD_" + name.replace("-", "_").upper()]
                command = "updateUser" if name in known else "createUser"
                admin.command(command, name, pwd=password, roles=roles_of(service, role))


if __name__ == "__main__":
    main()
