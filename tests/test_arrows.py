"""The allowed imports, and that looking is instant."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.helpers.machine import ROOT

PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")
TOP = {
    *PACKAGES, "tests", "reports", "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "pyproject.toml", "requirements.lock",
}  # fmt: skip
MOST_MODULES = 16
"""of a folder: what belongs together has a room"""
FORBIDDEN = {
    "tokenbridge": {
        "experiments",
        "analysis",
        "slurm",
        "mlflow",
        "submitit",
        "pandas",
        "typer",
        "matplotlib",
        "seaborn",
    },
    "experiments": {"submitit"},
    "analysis": {"torch", "torchvision", "slurm", "submitit", "typer"},
    "slurm": {"analysis", "mlflow", "torch", "pandas"},
}
"""what no file of a package imports"""
ROOF = "experiments.cli"
"""the only room of experiments that imports analysis and slurm; slurm takes its options from there"""
ENTRY = "tokenbridge.__main__"
"""the command in any folder: it lets our packages go first, and calls the roof's"""
ENTRY_IMPORTS = {"__future__", "os", "signal", "sys", "typing", "tokenbridge.packages", "tokenbridge.signals", ROOF}
CORE_FOR_ANALYSIS = {
    "experiments.axes",
    "experiments.paper",
    "tokenbridge.config",
    "tokenbridge.overrides",
    "tokenbridge.store.runs",
    "tokenbridge.metrics.catalogue",
    "tokenbridge.stages",
}
"""all that analysis imports of other packages"""
FLOORS = (
    ("config", "rng", "signals", "overrides", "devices", "distributed", "optimizer", "operations", "packages"),
    ("store", "weights", "checkpoints"),
    ("data",),
    ("tokenizers",),
    ("autoencoders", "model"),
    ("metrics", "speed"),
    ("stages",),
    ("exchange",),
    ("library",),
)
"""of the core, from the ground up: imports go downwards, or to a neighbour on the same floor"""
MLFLOW = {"analysis.frame.mlflow", "experiments.tracking.store", "experiments.tracking.sender"}
"""the only modules that import mlflow: one reads, the others write"""
KNOW_PROCESSES = {
    "tokenbridge.store",
    "tokenbridge.model.trainer",
    "tokenbridge.stages",
    "experiments.runner",
    ROOF,
    "slurm",
}
"""where several processes of one run are known; maths knows nothing of them"""


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for package in PACKAGES for path in files(package)}


def imports(path):
    """Every module that a file names in an import, at its top or inside a function; of `from a import b` a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def room_of(module):
    """Package and folder, or package and file for what lies beside the folders."""
    return ".".join(module.split(".")[:2])


def arrows():
    """(importing module, imported module), our own only."""
    for name, path in MODULES.items():
        for imported in set(imports(path)) & MODULES.keys():
            if imported != name and not name.startswith(f"{imported}."):  # a package is read before what is in it
                yield name, imported


def circle(edges):
    """Names on a circle of these arrows, [] where there is none."""
    after = {}
    for start, end in edges:
        after.setdefault(start, set()).add(end)
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for following in sorted(after.get(name, ())):
            if names := visit(following):
                return names
        done.add(path.pop())
        return []

    return next((names for name in sorted(after) if (names := visit(name))), [])


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_arrows(name):
    package, room = name.split(".")[0], room_of(name)
    for imported in imports(MODULES[name]):
        top = imported.split(".")[0]
        if name == ENTRY:
            assert starts(imported, ENTRY_IMPORTS), imported
            continue
        assert not starts(imported, FORBIDDEN[package]), f"{name} imports {imported}"
        if package == "analysis" and top in PACKAGES and imported not in PACKAGES and top != "analysis":
            assert starts(imported, CORE_FOR_ANALYSIS), f"{name} imports {imported}"
        if package == "experiments" and top in ("analysis", "slurm"):
            assert room == ROOF, f"{name} imports {imported}"
        if starts(imported, {"tokenbridge.distributed"}):
            assert starts(name, KNOW_PROCESSES), f"{name} imports {imported}"
        if top == "mlflow":
            assert name in MLFLOW, f"{name} imports {imported}"


def test_the_core_imports_downwards():
    floor = {f"tokenbridge.{room}": number for number, rooms in enumerate(FLOORS) for room in rooms}
    for name, imported in arrows():
        if starts(name, {"tokenbridge"}) and name not in ("tokenbridge", ENTRY):
            assert floor[room_of(name)] >= floor[room_of(imported)], f"{name} imports {imported}"


def test_no_circle_of_rooms_or_of_modules():
    edges = list(arrows())
    assert circle(edges) == []
    rooms = {(room_of(name), room_of(imported)) for name, imported in edges}
    # options of the command line are the roof's; the sweeps' commands hang below it
    assert circle({(a, b) for a, b in rooms if a != b and (a, b) != ("slurm.commands", ROOF)}) == []


def test_the_top_level_holds_what_it_should_and_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {path.partition("/")[0] for path in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} == TOP


def required(lines):
    """Names of the distributions that requirements name, as pip compares them."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in lines}


def test_what_is_imported_is_required_and_what_is_required_is_imported():
    """A package that another brings along goes when that one does without it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, tools = required(project["dependencies"]), required(project["optional-dependencies"]["dev"])
    brought = {name: required(by) for name, by in packages_distributions().items()}
    known, used = {*sys.stdlib_module_names, *PACKAGES, "tests"}, set[str]()
    for paths, allowed in ((MODULES.values(), needed), ([*files("tests"), *files(".ci")], needed | tools)):
        for path in paths:
            for name in {imported.split(".")[0] for imported in imports(path)} - known:
                assert brought[name] & allowed, f"{path} imports {name}, which pyproject.toml does not name"
                used |= brought[name] if allowed is needed else set()
    assert needed - used == {"diffusers"}  # imported by name, to leave out most of it: autoencoders/autoencoder_kl.py


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_a_folder_has_a_face_and_room_for_its_modules(folder):
    assert len(list(folder.glob("*.py"))) - 1 <= MOST_MODULES
    face = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert len((face or "").split()) >= 12, "it says what the room is for"


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        (
            "import experiments.cli.main",
            ["torch", "mlflow", "pandas", "matplotlib", "diffusers", "scipy", "submitit"],
        ),
        (
            "import experiments.runner, experiments.axes, experiments.paper, experiments.presets, experiments.tracking",
            ["torch", "mlflow", "pandas", "scipy", "sklearn", "PIL"],
        ),
        ("import tokenbridge.metrics.catalogue, tokenbridge.stages", ["torch", "mlflow", "pandas"]),
        (
            "from experiments.grid.request import Request; Request(name='x', tables=('ablation', '2a')).grid()",
            ["torch", "sklearn", "mlflow", "pandas"],
        ),
        ("import analysis.frame.load, analysis.report.build", ["torch", "mlflow", "diffusers"]),
        (
            "import tokenbridge.model.generator, tokenbridge.stages.train",
            ["diffusers", "mlflow", "pandas", "sklearn", "torch_fidelity", "triton"],
        ),
        (
            "import tokenbridge.stages.score, tokenbridge.stages.reconstruct",
            ["torchvision", "torchmetrics", "torch_fidelity", "matplotlib", "torch._dynamo", "triton"],
        ),
    ],
)
def test_light_imports(command, absent):
    check = f"{command}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
