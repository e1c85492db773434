"""`python -m overlaykit`: the command line, where its script is not on the PATH."""

from overlaykit.cli.main import main

if __name__ == "__main__":
    main()
