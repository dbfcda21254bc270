"""The list of settings: each with its value, kind, range and meaning, as the configuration checks them."""

import pytest

from tokenbridge.autoencoders.sources import SOURCES
from tokenbridge.config import HEAD_KINDS, Head, Quantizer, RunConfig, Runtime, Sample, Train, bounds_of
from tokenbridge.overrides import settings


def test_every_setting_is_listed_with_its_meaning(call, tmp_path):
    said = call("settings", cwd=tmp_path).stdout.splitlines()
    heads = [number for number, line in enumerate(said) if not line.startswith("    ")]
    assert [said[number].partition(" = ")[0] for number in heads] == [*settings(RunConfig)]
    assert all(said[number + 1].startswith("    ") for number in heads)
    for model in (*(field.annotation for field in RunConfig.model_fields.values()), Runtime):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("quantizer",), "quantizer.levels = 64  (a whole number or a list of whole numbers, 2 to 65,536)"),
        (("levels",), "quantizer.levels = 64  (a whole number or a list of whole numbers, 2 to 65,536)"),
        (
            ("train.batch", "--preset", "digits"),
            "train.batch = 32  (a whole number, 1 to 10,000,000; the default is 2048)",
        ),
        (("train.batch",), "train.batch = 2048  (a whole number, 1 to 10,000,000)"),
        (("data.path",), "data.path = none  (a path or none)"),
        (("score", "--preset", "digits"), "score.split = test  ('validation' or 'test')"),
        (("sample", "--preset", "own.toml"), "sample.guidance = 3  (a number, 0 to 1,000,000; the default is 1.0)"),
    ],
)
def test_a_section_a_setting_and_the_values_of_a_base(call, tmp_path, words, line):
    (tmp_path / "own.toml").write_text('preset = "digits"\n[sample]\nguidance = 3\n')
    done = call("settings", *words, cwd=tmp_path)
    assert line in [each.replace("3.0 ", "3 ") for each in done.stdout.splitlines()], done.stdout + done.stderr
    assert all(each.startswith((words[0].partition(".")[0], "    ", "quantizer.")) for each in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("smaple", "smaple is no section and no setting; did you mean sample?"),
        ("train.bach", "did you mean train.batch?"),
        ("lernin_rate", "did you mean learning_rate?"),
        ("xyz", "sections are data, autoencoder, latents"),
        ("", "is no section and no setting"),
    ],
)
def test_what_is_none(call, tmp_path, word, said):
    done = call("settings", word, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (Train, "epochs", "1 to 1,000,000"),
        (Train, "label_drop", "from 0, below 1"),
        (Train, "mask_ratio_min", "above 0, below 1"),
        (Train, "betas", "from 0, below 1"),
        (Train, "clip", "above 0"),
        (Train, "warmup_epochs", "0 or more"),
        (Train, "precision", ""),
        (Quantizer, "range", "1e-06 to 1,000,000"),
        (Sample, "temperature", "0 to 1,000,000"),
    ],
)
def test_ranges_in_words(model, name, words):
    assert bounds_of(model, name) == words


def test_the_kinds_that_a_setting_takes_are_named_in_its_meaning():
    assert all(kind in (Head.model_fields["kind"].description or "") for kind in HEAD_KINDS)
    told = RunConfig.model_fields["autoencoder"].annotation.model_fields["source"].description
    assert all(source in told for source in SOURCES)
