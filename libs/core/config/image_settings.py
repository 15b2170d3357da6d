"""Settings of the images of bots."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from libs.core.config.settings_loader import Group, Named

_IMAGE = r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$"
_IMAGE_ALLOWED = "the name of an image, with @sha256:… to pin it"


class ImageSettings(Group):
    """The images of bots, and the credentials for pulling them."""

    python: Annotated[
        str,
        Named("PYTHON311_IMAGE", allowed=_IMAGE_ALLOWED),
        Field(pattern=_IMAGE, description="image of the runtime python3.11"),
    ] = "python:3.11-slim"
    node: Annotated[
        str,
        Named("NODEJS20_IMAGE", allowed=_IMAGE_ALLOWED),
        Field(pattern=_IMAGE, description="image of the runtime nodejs20"),
    ] = "node:20-alpine"
    registry_server: Annotated[
        str | None,
        Named("REGISTRY_SERVER", allowed="the host of an image registry"),
        Field(pattern=r"^[^\s/]+$", description="registry of the credentials below; unset: Docker Hub"),
    ] = None
    registry_username: Annotated[
        str | None,
        Named("REGISTRY_USERNAME"),
        Field(description="user name for pulling images; unset: anonymous"),
    ] = None
    registry_password: Annotated[
        SecretStr | None,
        Named("REGISTRY_PASSWORD"),
        Field(description="password or token of that user"),
    ] = None

    @model_validator(mode="after")
    def _name_and_password_come_together(self) -> Self:
        if (self.registry_username is None) != (self.registry_password is None):
            raise ValueError("REGISTRY_USERNAME and REGISTRY_PASSWORD: one is set and one is not; set both or neither")
        return self
