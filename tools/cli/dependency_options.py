"""The option of the commands that build what a bot depends on, and the build."""

import click

from libs.core.config.image_settings import ImageSettings
from libs.core.config.settings_loader import load
from tools.author.dependencies.prepare import prepared
from tools.bots.folder import BotFolder
from tools.bots.package import Package
from tools.cli.untrusted import harmless

no_build_option = click.option(
    "--no-build",
    is_flag=True,
    help="Use the folder's own vendor or node_modules instead of building it from requirements.txt, pyproject.toml or "
    "package-lock.json.",
)


async def built(folder: BotFolder, *, no_build: bool) -> tuple[BotFolder, Package]:
    """Return *folder* as it is deployed, with what it depends on, and its package; see :func:`prepared`."""
    images = load(ImageSettings)
    return await prepared(
        folder,
        {"python3.11": images.python, "nodejs20": images.node},
        lambda line: click.echo(harmless(line), err=True),
        build=not no_build,
    )
