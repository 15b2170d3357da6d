"""`runtime setup`: what must be on the machine before bots can run."""

import click

from tools.cli import interrupts
from tools.cli.output import output_option, show
from tools.engine.ensure import ensure_engine
from tools.images.ensure import ensure_images


@click.command()
@output_option
def setup(output: str) -> None:
    """Get the Docker engine and the bots' images ready.

    Uses the engine that answers at DOCKER_HOST or the usual socket. Where none does, root on Debian or Ubuntu gets one
    installed and started. Images are pulled; where the registry is out of reach, stand-ins are built from Debian
    packages. May be repeated.
    """
    engine_url, images = interrupts.run(_setup())
    data = {"engine": engine_url, "images": images}
    show(output, data, lambda: click.echo(_text(engine_url, images)))


async def _setup() -> tuple[str, dict[str, str]]:
    engine = await ensure_engine()
    return engine.url, dict(await ensure_images(engine))


def _text(engine_url: str, images: dict[str, str]) -> str:
    return "\n".join([f"Docker engine: {engine_url}", *(f"{tag}: {origin}" for tag, origin in images.items())])
