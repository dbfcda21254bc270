"""Every setting of every section with every kind of bad value: the right value, or one line that says what to do."""

import json
import math

import pytest

from experiments.presets import PRESETS
from tokenbridge.config import Config, RunConfig, Runtime, UserError
from tokenbridge.overrides import build, override, settings

DIGITS = PRESETS["digits"]
DEFAULTS = settings(DIGITS)
WORDS = (
    "0", "-1", "1e30", "-1e30", "1" + "0" * 400, "1" * 5000, "NaN", "nan", "Infinity", "-Infinity", "inf", "", "text",
    "true", "null", "none", "[]", "[1,2]", "[[1]]", "[NaN]", "{}", '{"a":1}', '"5"', "1.5", '""', '"\\u0000"', "[" * 99,
    "[" * 9999, "a\nb", '"\\ud800"',
)  # fmt: skip
UNBOUNDED = {"train.clip"}
"""any positive number is right: a huge one clips nothing"""


def require_right(key, word, value):
    """What is accepted is what was typed, of the setting's type, finite, not negative and of a sane size."""
    default = DEFAULTS[key]
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, bool):
            assert isinstance(default, bool), f"{key}={word} was made {value}"
        elif isinstance(each, int | float):
            assert not isinstance(default, bool)
            assert json.loads(word) is not True, f"{key}={word} was made {value}"
            assert math.isfinite(each)
            assert 0 <= each <= 1e12 or key in UNBOUNDED, f"{key}={word}"
            assert not word.startswith('"'), f"{key}={word} was made a number"
        elif isinstance(each, str):
            assert each, f"{key} is empty"
            assert "\0" not in each or key == "autoencoder.source"  # a name, known where planning looks for it
            assert each == word or json.loads(word) == each
    if value is None:
        assert word in ("null", "none")


@pytest.mark.parametrize("key", DEFAULTS)
@pytest.mark.parametrize("base", ["digits", "imagenet256-L"])
def test_every_setting_with_every_bad_value(key, base):
    for word in WORDS:
        try:
            config = override(PRESETS[base], [f"{key}={word}"])
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            assert key.rpartition(".")[2] in message, f"{key}={word}: {message}"
            assert any(rule in message for rule in ("must ", "goes with")), f"{key}={word}: {message}"
        else:
            if not (key == "autoencoder.source" and word in ("", '""')):
                require_right(key, word, settings(config)[key])


@pytest.mark.parametrize("key", DEFAULTS)
def test_both_ways_of_typing_refuse_before_anything_is_written(call, tmp_path, key):
    word = f'{key}="\\u0000"'
    for words in (["run", "digits", word], ["grid", "2a", "--set", word]):
        done = call(*words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert key.rpartition(".")[2] in done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", settings(Runtime))
def test_every_setting_of_the_runtime(key):
    for value in (-1, 1e30, float("nan"), "", [], {}, True, None, "text"):
        right = {
            "bars": [True],
            "threads": [None],
            "checkpoint_seconds": [1e30, None],
            "trust_weights": [True],
        }
        if any(value is each or value == each for each in right.get(key, []) if type(value) is type(each)):
            continue
        with pytest.raises(UserError, match=key) as error:
            build(Runtime, {key: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("latents.scale=0", "latents.scale=0 must be >= 1e-06"),
        ("latents.scale=-1", "latents.scale=-1 must be >= 1e-06"),
        ("latents.scale=NaN", "latents.scale=nan must be one of 'auto', 'autoencoder' or a finite number"),
        ("train.betas=[0.9,1.5]", "train.betas=1.5 must be < 1"),
        ("train.betas=[0.9]", "train.betas=[0.9] must be a list of 2 numbers; the default is [0.9, 0.95]"),
        ("train.betas=[]", "train.betas=[] must be a list of 2 numbers; the default is [0.9, 0.95]"),
        ("head.depth=true", "head.depth=True must be a whole number; the default is 4"),
        ('quantizer.range="5"', "quantizer.range='5' must be a number; the default is 5.0"),
        ("backbone.width=" + "9" * 400, "… must lie within ±2^63"),
        ("head.mlp_ratio=0.001", "head.mlp_ratio=0.001 must be >= 1/64"),
        ("data.split_seed=-1", "data.split_seed=-1 must be >= 0"),
        ("data.test_path=x", "data.test_path=x goes with data.source=folder, parquet or tar only"),
        ("data.held_out_path=x", "data.held_out_path is no setting; it is data.test_path now"),
        ("data.validation_fraction=1", "data.validation_fraction=1 must be < 1"),
        ("score.split=train", "score.split='train' must be one of 'validation' or 'test'; the default is test"),
        ("score.weights=", "score.weights='' must name a file or folder"),
        ("score.features=3", "score.features=3 must be one or several of digits"),
        ("data.path=a\nb", r"data.path=a\nb goes with data.source=folder and others"),
    ],
)
def test_lines(word, message):
    with pytest.raises(UserError) as error:
        override(DIGITS, [word])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["2012", "1e30", "true", "1.50", "[a]", "007", "-1"])
def test_a_folder_may_be_named_like_a_number(name):
    assert override(DIGITS, ["data.source=folder", f"data.path={name}"]).data.path == name
    assert override(DIGITS, ["data.source=folder", f"data.path={json.dumps(name)}"]).data.path == name


def test_a_new_setting_is_covered():
    """Each field has a type whose values are told apart; one without would be accepted unseen."""
    for section, field in RunConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Config)
        assert {f"{section}.{name}" for name in field.annotation.model_fields} <= DEFAULTS.keys()
