"""What a manifest says of the machine, in processes of their own: torch takes its instruction set when it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tokenbridge.store.provenance import environment

PRINT = "import torch, json; from tokenbridge.store.provenance import environment; print(json.dumps(environment()))"


def told(**variables):
    command, words = [sys.executable, "-c", PRINT], os.environ | variables
    return json.loads(subprocess.run(command, env=words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_the_instruction_set_is_told():
    usual = told()["arithmetic"]
    assert usual["capability"] == torch.backends.cpu.get_cpu_capability()
    assert usual["set"] == {}
    lowered = told(ATEN_CPU_CAPABILITY="default")["arithmetic"]
    assert lowered["capability"] == "DEFAULT" != usual["capability"]
    assert lowered["set"] == {"ATEN_CPU_CAPABILITY": "default"}
    assert lowered["instructions"] == usual["instructions"]


def test_the_arithmetic_of_this_process():
    here = environment()
    assert here["threads"] == torch.get_num_threads()
    assert here["arithmetic"]["mkldnn"] in torch.__config__.show().replace("MKL-DNN v", "v")
