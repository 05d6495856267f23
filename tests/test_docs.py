"""The documentation agrees with the repository: links, anchors, paths, and the output of offline commands."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter import cli

ROOT = Path(__file__).resolve().parents[1]

PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))

OFFLINE = ("analyze", "plan")
"""Commands whose output depends on their arguments alone."""

SUFFIXES = frozenset({".csv", ".json", ".md", ".png", ".py", ".toml", ".txt", ".yaml", ".yml"})
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")

_FENCE = re.compile(r"^```.*?^```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    slugs = set()
    for heading in _HEADING.findall(prose(text)):
        words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        slugs.add(words.replace(" ", "-"))
    return slugs


def broken_links(page: Path, root: Path) -> list[str]:
    """Links of a page to files and anchors of the repository that do not exist."""
    broken = []
    for link in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if urllib.parse.urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if (
            not target.is_relative_to(root)
            or not target.exists()
            or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
        ):
            broken.append(link)
    return broken


def missing_paths(text: str, root: Path) -> list[str]:
    """Paths of the repository in backticks that do not exist; names with placeholders are skipped."""
    missing = []
    for code in _CODE.findall(prose(text)):
        for word in code.split():
            path = word.rstrip(".,;:")
            if not path.startswith(FOLDERS) or re.search(r"[A-Z*…<{$]{2,}|[*…<{$]", path):
                continue
            if "." in Path(path).name and Path(path).suffix not in SUFFIXES:
                continue
            if not (root / path).exists():
                missing.append(path)
    return missing


@dataclass(frozen=True, slots=True)
class Example:
    """One command of a console block, and the lines that the page shows below it."""

    page: str
    arguments: tuple[str, ...]
    shown: tuple[str, ...]


def examples(name: str, text: str) -> Iterator[Example]:
    """Offline commands with their output; a command without output shows no claim."""
    for block in _CONSOLE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        starts = [place for place, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            program, *arguments = shlex.split(lines[start][2:], comments=True)
            shown = tuple(line.rstrip() for line in lines[start + 1 : end])
            if (
                program.rpartition("/")[2] == "variant-adapter"
                and arguments[:1]
                and arguments[0] in OFFLINE
                and any(shown)
            ):
                yield Example(name, tuple(arguments), shown)


def unprinted(example: Example) -> list[str]:
    """Lines that the page shows and the command does not print, in that order."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = cli.main(list(example.arguments))
    if status:
        return [f"exit status {status}"]
    printed = iter([line.rstrip() for line in output.getvalue().splitlines()])
    return [line for line in example.shown if line and not any(line == other for other in printed)]


EXAMPLES = [
    example for page in PAGES for example in examples(page.name, page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading of it."""
    assert broken_links(page, ROOT) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    """Every path of the repository that a page names exists."""
    assert missing_paths(page.read_text(encoding="utf-8"), ROOT) == []


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda example: f"{example.page}-{example.arguments[0]}"
)
def test_output_is_as_shown(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline commands print the lines that the page shows, in the same order."""
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    (tmp_path / "docs").mkdir()  # plots are written there, not into the repository
    monkeypatch.chdir(tmp_path)
    if "--plot" in example.arguments:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")
    assert unprinted(example) == []


def test_examples_are_recognized() -> None:
    """Both commands of the README and the examples of the pages on the model and the optimizer run."""
    shown = {(example.page, example.arguments[0]) for example in EXAMPLES}
    assert shown >= {
        ("README.md", "analyze"),
        ("README.md", "plan"),
        ("model.md", "analyze"),
        ("optimizer.md", "plan"),
    }


def test_wrong_links_are_reported(tmp_path: Path) -> None:
    """A missing file, a missing anchor and a file outside; not a link in code or to another site."""
    (tmp_path / "other.md").write_text("# What `holds`, if anything?\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](gone.md) [b](other.md#gone) [c](other.md#what-holds-if-anything) [d](../page.md)\n"
        "[e](https://example.com/gone.md) [f](other.md#not-a-heading) [g](#gone)\n"
        "```\n[h](gone.md)\n```\n"
    )
    assert broken_links(page, tmp_path) == [
        "gone.md",
        "other.md#gone",
        "../page.md",
        "other.md#not-a-heading",
        "#gone",
    ]


def test_wrong_paths_are_reported() -> None:
    """Files, folders and modules without a suffix; not API groups, placeholders or words."""
    text = (
        "`adapter/gone.py`, `python tests/gone.py -x`, `adapter/store.py`, `docs/`, `analyzer/gone/`"
        " `emulator/gone` `tests/NAME.yaml` `adapter/*.py` `llmd.ai/gone`"
    )
    assert missing_paths(text, ROOT) == [
        "adapter/gone.py",
        "tests/gone.py",
        "analyzer/gone/",
        "emulator/gone",
    ]


def test_wrong_output_is_reported() -> None:
    """A changed line, and lines out of order."""
    text = """```console
$ .venv/bin/variant-adapter analyze --alpha 20 --beta 1 --max-batch 4 \\
    --output-tokens 100 --itl 22
One replica, max batch 5, targets on means
$ variant-adapter serve
```
"""
    (example,) = examples("page.md", text)
    assert unprinted(example) == ["One replica, max batch 5, targets on means"]
