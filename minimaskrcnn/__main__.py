"""`python -m minimaskrcnn`: the command line."""

from minimaskrcnn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
