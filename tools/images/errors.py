"""What making the images ready may end with."""


class ImageFailedError(RuntimeError):
    """An image could neither be pulled nor be stood in for."""

    def __init__(self, tag: str, pull: str, build: str) -> None:
        super().__init__(
            f"the image {tag} is missing: pulling it failed ({pull}), and so did building a stand-in ({build}). "
            f"Remedy: `docker pull {tag}` with access to a registry"
        )
