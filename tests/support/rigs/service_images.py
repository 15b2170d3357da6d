"""The services' images, built by the recipe that `./pants package ::` uses.

The build puts the PEX files into the working directory of tests that name them among their packages.
"""

import shutil
from pathlib import Path

import docker

from libs.core.process.service import SERVICES
from tools.images import sbom

TAGS = [f"the0/{service.name}:latest" for service in SERVICES]
"""The names that deployments use."""

_DEPENDENCIES = "deps.pex"
_SBOM_SCRIPT = "tools/images/sbom.py"


def are_packaged() -> bool:
    """Whether the PEX files are there to build images from."""
    return Path(_DEPENDENCIES).exists()


def build_service_images(client: docker.DockerClient, context: Path) -> None:
    """Build the images of all services in the empty folder *context*."""
    for name in ("Dockerfile.base", _DEPENDENCIES, *(f"{service.name}-app.pex" for service in SERVICES)):
        shutil.copy(name, context / name)
    script = context / _SBOM_SCRIPT
    script.parent.mkdir(parents=True)
    shutil.copy(sbom.__file__, script)
    for service, tag in zip(SERVICES, TAGS, strict=True):
        arguments = {
            "DEPS_PEX": "deps.pex",
            "APP_PEX": f"{service.name}-app.pex",
            "MODULE": f"services.{service.name.replace('-', '_')}",
        }
        client.images.build(path=str(context), dockerfile="Dockerfile.base", buildargs=arguments, tag=tag, rm=True)
