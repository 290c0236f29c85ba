"""Start the workbench: ``python app.py`` (what ``make run`` does)."""

from workbench.cli import main

if __name__ == "__main__":
    main(["serve"])
