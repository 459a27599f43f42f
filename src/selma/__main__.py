"""`python -m selma` is the command `selma`."""

from selma.cli import main

if __name__ == "__main__":
    main()
