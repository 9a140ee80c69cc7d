"""`python -m collafuse` is `collafuse`."""

from collafuse.cli import main

if __name__ == "__main__":
    main()
