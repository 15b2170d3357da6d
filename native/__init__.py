"""What is written in C; compiled as a build step, see init/build.py."""
