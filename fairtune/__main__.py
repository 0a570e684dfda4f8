"""`python -m fairtune`: the command line, for launchers that start modules."""

from fairtune.cli.app import main

if __name__ == "__main__":
    main()
