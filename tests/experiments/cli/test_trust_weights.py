"""--trust-weights, from the command to the workers of --jobs."""

import json

import pytest

from tests.conftest import SHORT
from tests.helpers.scorers import write_dinov2

CELLS = ("grid", "--axis", "sample.temperature=0.9,1.0", "--name", "trust", "--jobs", "2", "--threads", "1")


@pytest.mark.slow
def test_unknown_code_runs_in_all_workers_once_it_is_trusted(call, tmp_path):
    (weights := tmp_path / "weights").mkdir()
    write_dinov2(weights)
    settings = [*SHORT, "score.features=dinov2", f"score.weights={weights}"]
    words = [*CELLS, *(word for setting in settings for word in ("--set", setting))]
    for more in ((), ("--dry-run",), ("--try",)):
        refused = call(*words, *more, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "give --trust-weights where you trust who wrote it" in refused.stderr
    assert not list(tmp_path.glob("runs/stages/*"))
    done = call(*words, "--trust-weights", cwd=tmp_path)
    assert done.returncode in (0, None), done.stderr
    scores = [json.loads(path.read_text()) for path in tmp_path.glob("runs/stages/score-*/metrics.json")]
    assert len(scores) == 2
    assert all("fd_dinov2" in score["metrics"] and len(score["protocol"]["features_code"]) == 64 for score in scores)
