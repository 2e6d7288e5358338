"""Write the pages that are generated from the code: docs/formats.md from the schema of the files."""

from pathlib import Path

from traces import schema

if __name__ == "__main__":
    Path(__file__).with_name("formats.md").write_text(schema.markdown(), encoding="utf-8")
