"""`python -m fieldmark.cli`, where the command is not on the PATH."""

from fieldmark.cli import main

if __name__ == "__main__":
    main()
