"""The allowed imports, and that looking is instant."""

import ast
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

PACKAGES = {"tokenbridge", "experiments", "analysis", "slurm"}
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
    "analysis": {
        "torch",
        "torchvision",
        "slurm",
        "submitit",
        "typer",
        *(f"tokenbridge.stages.{path.stem}" for path in (ROOT / "tokenbridge" / "stages").glob("[a-z]*.py")),
    },
    "slurm": {"analysis", "mlflow", "torch", "pandas"},
}
ALLOWED = {
    "analysis": {
        "analysis",
        "experiments.axes",
        "experiments.paper",
        "tokenbridge.config",
        "tokenbridge.metrics.catalogue",
        "tokenbridge.overrides",
        "tokenbridge.stages",
        "tokenbridge.store.runs",
    },
}
# each may import those before it
ORDER = ["config", "tokenizers", "model"]
# of experiments, only they may call analysis and slurm
COMMANDS = {
    "experiments.cli.main",
    "experiments.cli.grid",
    "experiments.cli.report",
    "experiments.cli.tune",
    "experiments.cli.exchange",
}
READS_MLFLOW = {"analysis.frame.mlflow"}
KNOWS_PROCESSES = {
    "tokenbridge.stages.latents",
    "tokenbridge.stages.sample",
    "tokenbridge.store.shards",
    "tokenbridge.stages.train",
    "tokenbridge.model.trainer",
    "experiments.runner",
    "experiments.cli.tools",
    *COMMANDS,
}
WRITES_MLFLOW = {"experiments.tracking.store", "experiments.tracking.sender"}


def modules():
    for package in sorted(PACKAGES):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(name, path):
    package = name.split(".")[0]
    for imported in imports(path):
        assert not starts(imported, FORBIDDEN[package]), f"{name} imports {imported}"
        top = imported.split(".")[0]
        if package in ALLOWED and top in PACKAGES and imported not in PACKAGES:
            assert starts(imported, ALLOWED[package]), f"{name} imports {imported}"
        if package == "experiments" and top in ("analysis", "slurm"):
            assert name in COMMANDS, f"{name} imports {imported}"
        if starts(imported, {"tokenbridge.distributed"}):
            assert name in KNOWS_PROCESSES or package == "slurm", f"{name} imports {imported}"
        if top == "mlflow":
            assert name in READS_MLFLOW | WRITES_MLFLOW, f"{name} imports {imported}"


@pytest.mark.parametrize(
    ("name", "path"),
    [m for m in modules() if m[0].startswith("tokenbridge.")],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_core_layers(name, path):
    parts = name.split(".")
    for imported in set(imports(path)):
        inner = imported.split(".")[1:] if imported.startswith("tokenbridge.") else []
        if inner and parts[1] in ORDER and inner[0] in ORDER:
            assert ORDER.index(inner[0]) <= ORDER.index(parts[1]), f"{name} imports {imported}"
        if inner and inner[0] in ("store", "devices", "distributed", "signals") and parts[1] == "tokenizers":
            raise AssertionError(f"{name} is maths and imports {imported}")


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
        ("import tokenbridge.metrics.catalogue", ["torch", "mlflow", "pandas"]),
        (
            "from experiments.grid.request import Request; Request(name='x', tables=('ablation', '2a')).grid()",
            ["torch", "sklearn", "mlflow", "pandas"],
        ),
        ("import analysis.frame.load, analysis.report.build", ["torch", "mlflow", "diffusers"]),
        (
            "import tokenbridge.model.generator, tokenbridge.stages.train",
            ["diffusers", "mlflow", "pandas", "sklearn", "torch_fidelity"],
        ),
    ],
)
def test_light_imports(command, absent):
    check = f"{command}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
