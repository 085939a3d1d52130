"""Build the documentation site into build/site: `make docs`. A broken link, anchor or picture is an error.

The pages are docs/*.md; README.md and other pages from outside docs/, whose links become those of the site; and a page
per public package with the docstrings of its names. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
OUTSIDE = {  # path in the repository: page of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/mnist_odd_even/README.md": "tutorial.md",
}
PACKAGES = (
    *("prototxt", "fusion", "fusion.composition", "fusion.data", "fusion.export", "fusion.pct", "fusion.references"),
    *("fusion.report", "fusion.serving", "fusion.solver", "fusion.surgery", "fusion.sweep", "fusion.verification"),
)
LINK = re.compile(r"(?<=\]\()[\w./-]+")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def main() -> int:
    """Write the pages and build the site; return the builder's exit code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path, page in OUTSIDE.items():
        (PAGES / page).write_text(relinked((ROOT / path).read_text(encoding="utf-8")), encoding="utf-8")
    (PAGES / "api").mkdir()
    for package in PACKAGES:
        (PAGES / "api" / f"{package}.md").write_text(reference(package), encoding="utf-8")
    if missing := missing_pictures():  # the builder checks links and anchors alone
        print(f"error: there is no picture {', '.join(missing)}", file=sys.stderr)
        return 1
    builder = Path(sys.executable).with_name("zensical")
    return subprocess.run([builder, "build", "--clean", "--strict"], cwd=ROOT, check=False).returncode


def relinked(text: str) -> str:
    """Return a page with its links from the repository's root turned into links between the pages of the site."""
    return LINK.sub(lambda link: OUTSIDE.get(link[0], link[0].removeprefix("docs/")), text)


def reference(package: str) -> str:
    """Return the page of a package: its docstring, and those of its public names."""
    names = [name for name in import_module(package).__all__ if f"{package}.{name}" not in PACKAGES]
    head = f"# {package}\n\n::: {package}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}\n\n"
    return head + "".join(f"::: {package}.{name}\n\n" for name in names)


def missing_pictures() -> list[str]:
    """Return the pictures that pages show and that do not exist, as PAGE: PATH."""
    return [
        f"{page.name}: {path}"
        for page in sorted(PAGES.glob("*.md"))
        for path in PICTURE.findall(page.read_text(encoding="utf-8"))
        if not (PAGES / path).is_file()
    ]


if __name__ == "__main__":
    sys.exit(main())
