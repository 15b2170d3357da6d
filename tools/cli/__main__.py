"""`python -m tools.cli`: see ./runtime."""

from tools.cli.main import main

if __name__ == "__main__":
    main()
