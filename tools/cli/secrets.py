"""`runtime secrets`: keys for sealed values in configs."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "keygen": LazyCommand("tools.cli.secrets_keygen", "keygen", "Make a private key for workers."),
    "seal": LazyCommand("tools.cli.secrets_seal", "seal_command", "Seal a value for the bots of one owner."),
}
_HELP = """Seal secrets, so that configs, events and back-ups contain no readable key.

Only workers have the private keys (SECRETS_KEY_FILE). The public key suffices to seal; only workers can open.
To rotate: add a key with `keygen --append`, seal values with the new public key, deploy, and remove the old line.
"""

secrets = LazyGroup("secrets", _HELP, _COMMANDS)
