"""`python -m distgen` is `distgen`."""

from distgen.cli.main import main

if __name__ == "__main__":
    main()
