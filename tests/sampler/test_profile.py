"""Profiles: the file round-trips, bad files say what is wrong, fit finds what was put in."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_sampler.calibrate import MeasuredTokens, cut_points, fit
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import Composition, RowParams, rank_tables
from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.native.row import rank
from entropick_sampler.policy import PolicyRows, decide, quantile_ranks
from entropick_sampler.profile import QUANTILE_LEVELS, Profile, ProfileError
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.strategy import Strategy

NAMES = [signal.name for signal in POLICY_SIGNALS]


def measured(n: int = 4000, shift: float = 3.0, labelled: bool = True) -> MeasuredTokens:
    """A made-up model: 60 % sure tokens, 20 % even choices (half of them ambiguous), 20 % lopsided ones.

    On ambiguous tokens the agreement is ``shift`` standard deviations higher.
    """
    g = torch.Generator().manual_seed(3)
    values = torch.rand(n, len(NAMES), generator=g, dtype=torch.float64)
    kind = torch.rand(n, generator=g)
    sure, even = kind < 0.6, (kind >= 0.6) & (kind < 0.8)
    ambiguous = even & (torch.rand(n, generator=g) < 0.5)
    noise = torch.rand(n, generator=g, dtype=torch.float64)
    values[:, 0] = torch.where(sure, 0.05 * noise, torch.where(even, 4 + noise, 1 + 5 * noise))
    values[:, 1] = torch.where(sure, 0.05 * noise, torch.where(even, 0.3 + 0.2 * noise, 6 + 4 * noise))
    values[:, NAMES.index("agreement")] += shift * 0.3 * ambiguous
    if not labelled:
        ambiguous = torch.zeros_like(ambiguous)
    return MeasuredTokens(values, torch.ones_like(values, dtype=torch.bool), ambiguous)


def make(**kwargs: object) -> Profile:
    return fit(
        measured(**kwargs),  # type: ignore[arg-type]
        model_hash="m",
        data_hash="d",
        layers=(0, 1),
        date="2026-01-01",
    )


PLAIN = make()


def strategies(profile: Profile, data: MeasuredTokens) -> torch.Tensor:
    n = len(data.values)
    composition = Composition.of([RowParams.of(profile.params, True, profile)] * n, profile)
    memory = StepColumns.of([StepRow(0)] * n).memory
    return decide(StepStats(data.values, data.valid), memory, PolicyRows.of(composition, profile)).strategy


def test_round_trip(tmp_path: Path) -> None:
    profile = replace(make(), clarify_text='Which "one"?\n✓')
    profile.save(tmp_path / "p.toml")
    again = Profile.load(tmp_path / "p.toml")
    assert again == profile
    assert again.id == profile.id
    assert replace(profile, tokens=1).id != profile.id


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(), note=st.text(), bias=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_any_number_round_trips(tmp_path: Path, text: str, note: str, bias: float) -> None:
    profile = replace(PLAIN, clarify_text=text, notes=(note, note), clarify_bias=bias)
    profile.save(tmp_path / "p.toml")
    assert Profile.load(tmp_path / "p.toml") == profile


@pytest.mark.parametrize(
    "text",
    ["Which one? \U0001f600", "\x00\x1f\x7f\x85\u2028", "a\r\nb\rc", '"""', "\\", "'''", "\ufeff#"],
)
def test_emoji_quotes_and_control_characters_round_trip(tmp_path: Path, text: str) -> None:
    profile = replace(PLAIN, clarify_text=text, data_hash=text, date=text)
    profile.save(tmp_path / "p.toml")
    assert Profile.load(tmp_path / "p.toml") == profile


def test_half_a_character_is_refused_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    PLAIN.save(path)
    with pytest.raises(ProfileError, match="not Unicode"):
        replace(PLAIN, clarify_text="\ud83d").save(path)
    assert Profile.load(path) == PLAIN
    assert os.listdir(tmp_path) == ["p.toml"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "p.toml"
    PLAIN.save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(OSError, match="No space"):
        replace(PLAIN, tokens=7).save(path)
    assert Profile.load(path) == PLAIN
    assert os.listdir(tmp_path) == ["p.toml"]


def test_the_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    PLAIN.save(tmp_path / "made" / "p.toml")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made/p.toml", "other")]
    assert modes[0] == modes[1]


def test_cut_points_of_genuineness_decide_nothing(tmp_path: Path) -> None:
    cuts = Cuts(cost=2.5, genuine=0.05, mechanical=0.01, window=64, pull=-0.02)
    profile = replace(PLAIN, genuineness=cuts)
    profile.save(tmp_path / "p.toml")
    assert Profile.load(tmp_path / "p.toml") == profile
    assert profile.id == PLAIN.id
    assert "genuineness" not in PLAIN.as_dict()
    for other, why in (
        (replace(cuts, window=32), "window 64"),
        (replace(cuts, form="seed"), "normalised"),
    ):
        replace(PLAIN, genuineness=other).save(tmp_path / "p.toml")
        with pytest.raises(ProfileError, match=why):
            Profile.load(tmp_path / "p.toml")
    text = (tmp_path / "p.toml").read_text().replace('form = "seed"', 'form = "normalised"')
    (tmp_path / "p.toml").write_text(text.replace("genuine = 0.05", "genuine = 0.001"))
    with pytest.raises(ProfileError, match="mechanical must be below"):
        Profile.load(tmp_path / "p.toml")


def test_the_id_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = replace(PLAIN)
    calls = []
    whole = Profile.as_dict

    def counted(self: Profile) -> dict[str, object]:
        calls.append(self)
        return whole(self)

    monkeypatch.setattr(Profile, "as_dict", counted)
    assert len({profile.id, profile.id, profile.id}) == 1
    assert profile.params is profile.params
    assert len(calls) == 1
    assert hash(profile) == hash(PLAIN)
    assert replace(profile, tokens=1).id != profile.id


def test_a_profile_of_before_a_signal_loads_and_decides_alike(tmp_path: Path) -> None:
    """No formula reads the attention to the previous token: its quantiles say nothing to a decision."""
    old = replace(PLAIN, quantiles={n: q for n, q in PLAIN.quantiles.items() if n != "attention_to_previous"})
    old.save(tmp_path / "old.toml")
    loaded = Profile.load(tmp_path / "old.toml")
    assert "attention_to_previous" in PLAIN.quantiles
    assert "attention_to_previous" not in loaded.quantiles
    assert "attention_to_previous" not in PLAIN.clarify_weights
    assert set(PLAIN.clarify_weights) == set(NAMES) - {"attention_to_previous"}
    data = measured()
    other = data.values.clone()
    other[:, NAMES.index("attention_to_previous")] = 0.5
    want = strategies(PLAIN, data)
    assert want.unique().numel() > 3
    for profile in (PLAIN, loaded):
        for values in (data.values, other):
            assert torch.equal(strategies(profile, replace(data, values=values)), want)


def test_quantiles_are_those_of_the_data() -> None:
    data, profile = measured(), make()
    want = torch.quantile(data.values[:, 3], torch.tensor(QUANTILE_LEVELS, dtype=torch.float64))
    assert profile.quantiles[NAMES[3]] == pytest.approx(want.tolist())


def test_no_strategy_is_dead_on_the_data_it_was_fitted_on() -> None:
    data = measured()
    counts = torch.bincount(strategies(make(), data), minlength=5)
    assert (counts > 0.005 * len(data.values)).all(), counts.tolist()


def test_attention_separates_ambiguous_from_free_choices_when_it_can() -> None:
    data = measured()
    clarify = strategies(make(), data) == int(Strategy.CLARIFY)
    even = (data.values[:, 0] >= 4) & (data.values[:, 1] < 1)
    hit = clarify[data.ambiguous].double().mean()
    false = clarify[even & ~data.ambiguous].double().mean()
    assert hit > 0.6
    assert false < 0.06


def test_where_attention_says_nothing_the_discriminant_lets_few_pass() -> None:
    data = measured(shift=0.0)
    clarify = strategies(make(shift=0.0), data) == int(Strategy.CLARIFY)
    assert clarify[data.ambiguous].double().mean() < 0.2


def test_without_labels_there_is_no_discriminant() -> None:
    profile = make(labelled=False)
    assert profile.clarify_weights == {}
    assert profile.clarify_bias == 1.0
    assert any("too few labelled" in note for note in profile.notes)


def without_attention(data: MeasuredTokens) -> MeasuredTokens:
    """The same tokens on an engine that sees logits alone: what is not measured has any value."""
    valid = data.valid.clone()
    valid[:, 2:] = False
    return MeasuredTokens(data.values.masked_fill(~valid, 7.0), valid, data.ambiguous)


def fitted(data: MeasuredTokens) -> Profile:
    return fit(data, model_hash="m", data_hash="d", layers=(0, 1), date="2026-01-01")


def test_signals_that_were_not_measured_get_neither_ranks_nor_weights() -> None:
    profile = fitted(without_attention(measured()))
    assert set(profile.quantiles) == set(NAMES[:2])
    assert set(profile.clarify_weights) == set(NAMES[:2])
    assert profile.thresholds == make().thresholds
    assert any(", ".join(NAMES[2:]) in note for note in profile.notes)


def test_a_profile_without_attention_decides_the_same_where_attention_is_measured(tmp_path: Path) -> None:
    """Its place in the profile is the middle one, whatever its value: also on another engine."""
    blind = without_attention(measured())
    fitted(blind).save(tmp_path / "p.toml")
    profile = Profile.load(tmp_path / "p.toml")
    composition = Composition.of([RowParams.of(profile.params, True, profile)], profile)
    shared = PolicyRows.of(composition, profile).shared
    tables = rank_tables(profile)
    for value in (0.0, 1e-9, 123.0):
        ranks = quantile_ranks(StepStats(torch.full((1, len(NAMES)), value)), shared)
        assert ranks[0, 2:] == pytest.approx(0.5, abs=1e-12)
        for low, scale in zip(tables.low[2:], tables.scale[2:], strict=True):
            assert rank(value, low, scale) == pytest.approx(0.5, abs=1e-12)
    assert strategies(profile, measured()).equal(strategies(profile, blind))


def test_tokens_whose_figures_were_lost_are_left_out() -> None:
    data = measured()
    lost = torch.rand(len(data.values), generator=torch.Generator().manual_seed(1)) < 0.3
    holes = MeasuredTokens(
        data.values.masked_fill(lost.unsqueeze(1), 0.0), data.valid & ~lost.unsqueeze(1), data.ambiguous
    )
    kept = MeasuredTokens(data.values[~lost], data.valid[~lost], data.ambiguous[~lost])
    got, want = fitted(holes), fitted(kept)
    assert got.notes[-2] == f"{int(lost.sum())} tokens left out: their figures were lost"
    assert replace(got, notes=()) == replace(want, notes=())


def test_cut_points_do_not_overlap() -> None:
    points, _ = cut_points(measured())
    assert points["greedy_varentropy"] <= points["explore_varentropy"]
    assert points["clarify_varentropy"] <= points["explore_varentropy"]
    assert points["greedy_entropy"] <= points["clarify_entropy"]
    assert points["explore_entropy"] == points["high_uncertainty_entropy"]


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 100"):
        make(n=99)


@pytest.mark.parametrize(
    ("old", "new", "needle"),
    [
        ("format = 1", "format = 9", "format"),
        ("greedy_entropy", "greedy_entropi", "thresholds.greedy_entropy is missing"),
        ("[quantiles]", "[quantiles]\nnonsense = [1.0]", "quantiles.nonsense"),
        ("[thresholds]", "[thresholds", "cannot be read"),
        ("tokens = 4000", 'tokens = "many"', "malformed"),
        ("tokens = 4000", "tokens = inf", "malformed"),
        ("[provenance]", "[provenience]", "missing"),
        ("bias = ", "bias = nan #", "clarify.bias"),
        ("greedy_entropy = ", "greedy_entropy = inf #", "thresholds.greedy_entropy"),
        ("agreement = [", "agreement = [nan,", "quantiles.agreement"),
        ("[thresholds]", "[thresholds]\nother = 1", "thresholds.other is not known"),
        ("format = 1", "format = " + "[" * 5000, "cannot be read"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, old: str, new: str, needle: str) -> None:
    path = tmp_path / "p.toml"
    make().save(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ProfileError, match=needle):
        Profile.load(path)
