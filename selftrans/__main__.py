"""``python -m selftrans``: the command ``selftrans``."""

from selftrans.cli import main

if __name__ == "__main__":
    main()
