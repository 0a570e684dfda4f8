"""`python -m fairtune` is `fairtune`."""

from fairtune.cli.app import main

if __name__ == "__main__":
    main()
