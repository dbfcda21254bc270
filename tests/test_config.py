import pytest

from experiments.presets import PRESETS, preset
from tokenbridge.config import Quantizer, RunConfig, UserError
from tokenbridge.overrides import build, override, settings

DIGITS = PRESETS["digits"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("quantizer.level=3", "quantizer.level is no setting; did you mean quantizer.levels?"),
        ("levels=3", "levels is no setting; did you mean quantizer.levels?"),
        ("quantiser.levels=3", "did you mean quantizer.levels?"),
        ("quantizer.levels", "must have the form key=value"),
        ("quantizer=3", "quantizer is a section, not a setting; its settings are quantizer.kind"),
        ("quantizer.levels=1", "quantizer.levels=1 must be >= 2"),
        ("quantizer.levels=many", "quantizer.levels='many' is not valid: must be a valid integer"),
        ("quantizer.levels=2.5", "quantizer.levels=2.5 is not valid"),
        ("quantizer.range=0", "quantizer.range=0 must be > 0"),
        ("quantizer.range=-1", "quantizer.range=-1 must be > 0"),
        ("quantizer.kind=gauss", "quantizer.kind='gauss' must be one of 'gaussian', 'uniform'"),
        ("quantizer.levels=741", "at most 740 with edges=clamped at std_range=3"),
        ("train.betas=[0.9]", "train.betas"),
        ("backbone.width=33", "backbone.width=33 must be a multiple of backbone.heads=4"),
        ("sample.iterations=17", "sample.iterations=17 must be at most 16"),
        ("data.image_size=18", "data.image_size=18 must be a multiple of autoencoder.stride=4"),
        ("data.path=/images", "data.path=/images goes with data.source=folder only"),
        ("train.warmup_epochs=1000", "warmup_epochs=1000 must be < epochs"),
        ("head.order=[0,1]", "head.order=[0, 1] must hold each channel 0..7 once"),
    ],
)
def test_refusals_are_one_clear_line(assignment, message):
    with pytest.raises(UserError) as error:
        override(DIGITS, [assignment])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_are_typed_and_leave_the_base_alone():
    changed = override(
        DIGITS, ["quantizer.levels=32", "head.order=[7,6,5,4,3,2,1,0]", "latents.scale=0.5", "head.kind=parallel"]
    )
    assert (changed.quantizer.levels, changed.latents.scale, changed.head.kind) == (32, 0.5, "parallel")
    assert changed.head.order == (7, 6, 5, 4, 3, 2, 1, 0)
    assert DIGITS.quantizer.levels == 16
    with pytest.raises(Exception, match="frozen"):
        changed.quantizer.levels = 8  # type: ignore[misc]


def test_a_setting_changes_exactly_itself():
    before, after = settings(DIGITS), settings(override(DIGITS, {"sample.temperature": 0.9}))
    assert {key for key in before if before[key] != after[key]} == {"sample.temperature"}


def test_more_levels_with_truncated_edges():
    config = override(DIGITS, ["quantizer.levels=65536", "quantizer.edges=truncated"])
    assert config.quantizer.levels == 65536


def test_identity_tokens_have_no_classes():
    config = override(DIGITS, ["quantizer.kind=identity"])
    with pytest.raises(UserError, match=r"quantizer\.kind=identity cannot go with head\.kind=autoregressive"):
        config.require_categorical()


def test_unknown_preset_names_the_closest():
    with pytest.raises(UserError, match="imagenet-L is no preset; did you mean imagenet256-L"):
        preset("imagenet-L")


def test_nan_is_no_setting():
    with pytest.raises(UserError, match="range"):
        build(Quantizer, {"range": float("nan")})


def test_configs_come_back_from_json():
    assert RunConfig.model_validate_json(DIGITS.model_dump_json()) == DIGITS
