"""Write the pages of docs/ that are made from the code: run it after a change of a setting or a metric."""

from __future__ import annotations

from pathlib import Path

from adapter.app import metrics_page
from adapter.settings import page

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Write every generated page, and name it."""
    for name, text in (
        ("configuration.md", page.text()),
        ("metrics.md", metrics_page.text()),
    ):
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
