"""`runtime setup`: prepare the machine for running bots."""

from pathlib import Path

import click

from tools.cli import interrupts
from tools.cli.output import output_option, show
from tools.dev.python_environment import make_environment
from tools.engine.ensure import ensure_engine
from tools.images.ensure import ensure_images

_ROOT = Path(__file__).resolve().parents[2]


@click.command()
@click.option(
    "--dev", is_flag=True, help="Create .venv in this checkout with all packages, for editors and benchmarks."
)
@output_option
def setup(dev: bool, output: str) -> None:
    """Prepare the Docker engine and the bots' images.

    Uses the engine at DOCKER_HOST or the default socket. If there is none, it is installed and started (as root on
    Debian or Ubuntu). Images are pulled; if the registry is unreachable, stand-ins are built from Debian packages. May
    be repeated.
    """
    data: dict[str, object] = {}
    if dev:
        # First, since it needs no engine.
        click.echo("setup: bringing .venv up to date; the first time takes minutes", err=True)
        data["environment"] = str(make_environment(_ROOT))
    engine_url, images = interrupts.run(_setup())
    data |= {"engine": engine_url, "images": images}
    text = _text(engine_url, images)
    if dev:
        text += f"\nPython environment: {data['environment']} (source {data['environment']}/bin/activate)"
    show(output, data, lambda: click.echo(text))


async def _setup() -> tuple[str, dict[str, str]]:
    engine = await ensure_engine()
    return engine.url, dict(await ensure_images(engine))


def _text(engine_url: str, images: dict[str, str]) -> str:
    return "\n".join([f"Docker engine: {engine_url}", *(f"{tag}: {origin}" for tag, origin in images.items())])
