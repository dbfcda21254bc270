"""Pages of the guides and docstrings, by pdoc: .ci/pages.py [FOLDER], build/docs unless told; a warning is an error.

A folder's README.md stands before the docstrings of its package, and links between guides lead to their pages.
"""

from __future__ import annotations

import pkgutil
import re
import shutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import pdoc
import pdoc.render

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")
GUIDES = {f"{name}/README.md": name for name in PACKAGES} | {"experiments/imagenet.md": "experiments.paper"}
"""page of text -> the module on whose page it stands"""


def page(module: str) -> str:
    return f"{module.replace('.', '/')}.html"


def with_links(guide: str, text: str) -> str:
    """A guide whose links lead to pages; what has none, such as a report, is named without a link."""
    depth = "../" * GUIDES[guide].count(".")

    def target(match: re.Match[str]) -> str:
        label, path, anchor = match[1], *match[2].partition("#")[::2]
        if "://" in path:
            return match[0]
        there = ((ROOT / guide).parent / path).resolve().relative_to(ROOT).as_posix() if path else guide
        if there in GUIDES:
            return f"[{label}]({depth}{page(GUIDES[there])}{f'#{anchor}' if anchor else ''})"
        return f"[{label}]({depth}index.html)" if there == "README.md" else label

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", target, text)


def show_all(package: ModuleType) -> None:
    """Let pdoc see names that are imported when they are asked for, and the modules beside them."""
    rooms = [each for each in pkgutil.iter_modules(package.__path__) if each.name != "__main__"]
    if hasattr(package, "__all__"):
        for name in package.__all__:
            setattr(package, name, getattr(package, name))
        package.__all__ = [*package.__all__, *(each.name for each in rooms)]
    for each in rooms:
        if each.ispkg:
            show_all(import_module(f"{package.__name__}.{each.name}"))


def main(folder: Path) -> None:
    """Write all pages into a folder, in place of older ones, which stay until all are there."""
    if folder.exists() and not (folder / "index.html").is_file() and any(folder.iterdir()):
        raise SystemExit(f"{folder} must be new, empty or hold older pages; name another")
    warnings.simplefilter("error")
    # of named tuples, whose constructors have annotations of no module; they stay as they were written
    warnings.filterwarnings("ignore", "Error parsing type annotation", UserWarning)
    for guide, module in GUIDES.items():
        text = re.sub(r"^(#+) ", r"#\1 ", (ROOT / guide).read_text(), flags=re.M)
        about = import_module(module)
        about.__doc__ = f"{with_links(guide, text)}\n\n## In the code\n\n{about.__doc__}"
    for name in PACKAGES:
        show_all(import_module(name))
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    pdoc.render.configure(docformat="google", footer_text="TokenBridge Lab")
    pdoc.pdoc(*PACKAGES, output_directory=work)
    for path in work.rglob("*.html"):
        # pdoc shows no constructor of an abstract class, and yet links to it where it is inherited
        path.write_text(re.sub(r'(href="[^"#]*#[\w.]+)\.__init__"', r'\1"', path.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "docs")
