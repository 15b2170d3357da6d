"""Programs for users and for the build: the `runtime` command, the embedded servers, Docker and its images."""
