"""No call in our code unpickles, evaluates or imports what a file holds, but where the program in it is known."""

import ast
from pathlib import Path

from tests.helpers.machine import ROOT

PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")
PROGRAMS = {"tokenbridge/metrics/published.py": {"torch.hub.load", "torch.jit.load"}}
"""where a program runs whose hash was looked at before"""
RUNS = {
    "torch.hub.load", "torch.hub.list", "torch.hub.load_state_dict_from_url", "torch.jit.load", "torch.package",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "cloudpickle.load", "cloudpickle.loads",
    "dill.load", "dill.loads", "shelve.open", "pandas.read_pickle", "pd.read_pickle", "marshal.load", "marshal.loads",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "compile", "runpy.run_path", "os.system",
}  # fmt: skip


def called(source: str) -> list[tuple[int, str]]:
    """Calls that run what they read, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            name in RUNS
            or (name == "torch.load" and words.get("weights_only") != "True")
            or (name.endswith(".load") and words.get("allow_pickle", "False") != "False")
            or words.get("shell") == "True"
        ):
            found.append((node.lineno, name))
    return found


def test_the_reader_of_calls_sees_them():
    lines = ["torch.load(p)", "torch.load(p, weights_only=True)", "np.load(p)", "np.load(p, allow_pickle=True)"]
    lines += ["torch.hub.load(a)", "pickle.loads(b)", "eval(c)", "model.eval()", "subprocess.run(d, shell=True)"]
    assert [line for line, _ in called("\n".join(lines))] == [1, 4, 5, 6, 7, 9]


def test_nothing_that_is_read_is_run():
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(paths) > 150
    for path in paths:
        place = str(Path(path).relative_to(ROOT))
        wrong = [(line, name) for line, name in called(path.read_text()) if name not in PROGRAMS.get(place, ())]
        assert not wrong, f"{place}: {wrong}"
