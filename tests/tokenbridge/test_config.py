import pytest

from experiments.presets import PRESETS, preset
from tokenbridge.config import CATEGORICAL, CONTINUOUS, Quantizer, RunConfig, UserError
from tokenbridge.overrides import build, override, settings

DIGITS = PRESETS["digits"]
HEADS = (*CATEGORICAL, *CONTINUOUS)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("quantizer.level=3", "quantizer.level is no setting; did you mean quantizer.levels?"),
        ("levels=3", "levels is no setting; did you mean quantizer.levels?"),
        ("quantiser.levels=3", "did you mean quantizer.levels?"),
        ("quantizer.levels", "must have the form key=value"),
        ("quantizer=3", "quantizer is a section, not a setting; its settings are quantizer.kind"),
        ("quantizer.levels=1", "quantizer.levels=1 must be >= 2"),
        (
            "quantizer.levels=many",
            "quantizer.levels='many' must be a whole number or a list of whole numbers; the default",
        ),
        ("quantizer.levels=2.5", "quantizer.levels=2.5 must be a whole number"),
        ("quantizer.range=0", "quantizer.range=0 must be >= 1e-06"),
        ("quantizer.range=-1", "quantizer.range=-1 must be >= 1e-06"),
        ("quantizer.kind=gauss", "quantizer.kind='gauss' must be one of 'gaussian', 'uniform'"),
        ("quantizer.levels=741", "at most 740 with edges=clamped at std_range=3"),
        ("train.betas=[0.9]", "train.betas"),
        ("backbone.width=33", "backbone.width=33 must be a multiple of backbone.heads=4"),
        ("sample.iterations=17", "sample.iterations=17 must be at most 16"),
        ("data.image_size=18", "data.image_size=18 must be a multiple of autoencoder.stride=4"),
        ("data.path=/images", "data.path=/images goes with data.source=folder and others"),
        ("train.warmup_epochs=1000", "warmup_epochs=1000 must be < epochs"),
        ("quantizer.levels=[8,5]", "levels=[8, 5] must be one number with quantizer.kind=gaussian"),
        ("quantizer.kind=lfq", "levels=16 must be 2 with quantizer.kind=lfq"),
        ("quantizer.kind=bsq", "levels=16 must be 2 with quantizer.kind=bsq"),
        ("quantizer.kind=rvq", "levels=16 must be two or more numbers with quantizer.kind=rvq"),
        ("sample.temperature=-1", "sample.temperature=-1 must be >= 0"),
        ("sample.top_p=0", "sample.top_p=0 must be > 0"),
        ("sample.guidance_on=estimate", "must be one of ('features', 'logits') with head.kind=autoregressive"),
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


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["sample.top_k=3"], "sample.top_k=3 needs a head of levels, not head.kind=diffusion"),
        (["sample.temperature=[1,0.9]"], "sample.temperature=[1.0, 0.9] must be one number with head.kind=diffusion"),
        (["sample.confidence=1"], "sample.confidence=1 must be 0 with head.kind=diffusion"),
        (["sample.guidance_on=logits"], "sample.guidance_on=logits must be one of ('estimate', 'features')"),
        (["quantizer.kind=fsq", "quantizer.levels=[8,5,5]"], "must be 8 numbers, one for each of autoencoder.channels"),
    ],
)
def test_settings_that_a_head_cannot_have(assignments, message):
    with pytest.raises(UserError) as error:
        override(DIGITS, ["head.kind=diffusion", *assignments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


VQ = {"quantizer.kind": "vq", "quantizer.levels": 1024}
FSQ = {"quantizer.kind": "fsq", "quantizer.levels": (8, 5, 5, 5), "autoencoder.channels": 4}
LFQ = {"quantizer.kind": "lfq", "quantizer.levels": 2, "autoencoder.channels": 10}
IDENTITY = {"quantizer.kind": "identity"}
PER_CHANNEL = [{"quantizer.kind": kind} for kind in ("gaussian", "uniform", "quantile", "lloyd-max")]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tokens", [*PER_CHANNEL, VQ, FSQ, LFQ, IDENTITY], ids=lambda t: t["quantizer.kind"])
def test_every_head_goes_with_a_token_or_says_why_not(head, tokens):
    config = override(DIGITS, {"head.kind": head} | tokens)
    if (head in CONTINUOUS) == (config.quantizer.kind == "identity"):
        config.require_pair()
        return
    with pytest.raises(UserError, match=rf"quantizer\.kind={config.quantizer.kind} cannot go with head\.kind={head}, "):
        config.require_pair()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head.order": (0, 1)}, "head.order=[0, 1] must hold each channel 0..7 once"),
        ({"head.group": 3}, "head.group=3 must divide 8, the channels of a token"),
        ({"head.group": 4, "quantizer.levels": 64}, "makes 16,777,216 classes per group, which must be at most 65,536"),
        (VQ | {"head.group": 2}, "head.group=2 must divide 1, the channels of a token"),
        (LFQ | {"head.order": tuple(range(8))}, "must hold each channel 0..9 once"),
        ({"sample.temperature": (1.0, 0.5)}, "sample.temperature=[1.0, 0.5] must be one number, or 8: one per step"),
    ],
)
def test_heads_that_do_not_fit_their_tokens(settings, message):
    with pytest.raises(UserError) as error:
        override(DIGITS, settings).require_pair()
    assert message in str(error.value)


def test_an_id_reads_what_the_kind_of_head_reads():
    diffusion = override(DIGITS, {"head.kind": "diffusion"}).head
    assert diffusion.training_settings() == {"kind": "diffusion", "width": 64, "depth": 2, "multiplier": 4}
    assert "start" not in DIGITS.head.training_settings()
    assert "components" not in DIGITS.head.training_settings()


def test_unknown_preset_names_the_closest():
    with pytest.raises(UserError, match="imagenet-L is no preset; did you mean imagenet256-L"):
        preset("imagenet-L")


def test_nan_is_no_setting():
    with pytest.raises(UserError, match="range"):
        build(Quantizer, {"range": float("nan")})


def test_configs_come_back_from_json():
    assert RunConfig.model_validate_json(DIGITS.model_dump_json()) == DIGITS
