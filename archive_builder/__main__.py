"""The command line as ``python -m archive_builder``, for environments without ``archive-builder`` on the path."""

from archive_builder.cli.main import main

if __name__ == "__main__":
    main(prog_name="archive-builder")
