"""Errors of preparing the images."""


class ImageFailedError(RuntimeError):
    """An image could be neither pulled nor replaced by a stand-in."""

    def __init__(self, tag: str, pull: str, build: str) -> None:
        super().__init__(
            f"the image {tag} is missing: pulling it failed ({pull}), and so did building a stand-in ({build}). "
            f"Remedy: `docker pull {tag}` with access to a registry"
        )
