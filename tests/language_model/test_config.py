from pathlib import Path
from typing import Any

import pytest
import yaml

from faithfulness_plugin.adapters import examples
from faithfulness_plugin.language_model.config import TrainConfig, read_config
from faithfulness_plugin.results.settings_file import SettingsError, make_config

EXAMPLE = Path(next(iter(examples.__path__))) / "train.yaml"

pytestmark = pytest.mark.usefixtures("as_installed")


def configured(settings: dict[str, Any]) -> TrainConfig:
    return make_config(settings, "here", TrainConfig)


def refused(path: Path, text: str) -> str:
    """The one line that names the file."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        read_config(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokns: 5", "there is no setting tokns: did you mean tokens?"),
        ("d_sae: 1152", "d_sae belongs under transcoder:, as transcoder: {d_sae: ...}"),
        ("estimator: secant", "estimator belongs under jacobian:"),
        ("skip_first: 1", "skip_first belongs under rows:"),
        ("keep: rows", "keep belongs under stores:, as stores: {keep: ...}"),
        ("stores: {keep: all}", "stores.keep: Input should be 'derivatives' or 'rows'"),
        ("stores: {dtype: int8}", "stores.dtype: Input should be 'float32', 'bfloat16' or 'float16'"),
        ("xyzzy: 5", "there is no setting xyzzy: choose from model, text, blocks"),
        ("model: {nme: gpt2}", "there is no setting model.nme: did you mean name?"),
        ("text: {colum: a}", "there is no setting text.colum: did you mean column?"),
        ("transcoder: {d_sea: 4, k: 2}", "there is no setting d_sea: did you mean d_sae?"),
        (
            "architecture: standard\ntranscoder: {d_sae: 4, k: 2}",
            "there is no setting k: choose from d_sae",
        ),
        ("transcoder: {d_sae: 4, k: 2, jacobian_coefficient: 1}", "there is no setting jacobian_coefficient"),
        ("transcoder: {k: 2}", "transcoder: d_sae, the number of features, is missing"),
        ("transcoder: {d_sae: 4, k: 5}", "k=5: choose"),
        ("transcoder: 4", "transcoder: Input should be a valid dictionary"),
        ("jacobian: {prob: sphere}", "no option prob: choose from estimator, probe"),
        ("jacobian: {estimator: jpv}", "estimator='jpv' is unknown"),
        ("coefficients: [0, -0.5]", "coefficients: -0.5 is negative: a coefficient is 0 or more"),
        ("coefficients: [0.5, 0.5]", "coefficients: a value is given twice"),
        ("coefficients: [0, -0.0]", "coefficients: a value is given twice"),
        ("coefficients: []", "coefficients: List should have at least 1 item"),
        ("coefficients: [.nan]", "coefficients.0: Input should be a finite number"),
        ("blocks: [3, 3]", "blocks: a value is given twice"),
        ("buffer_prompts: 2\ncontext_size: 16", "= 32 rows do not hold one batch of 512: raise buffer_prompts"),
        ("rows: {skip_first: 127}", "rows: skip_first=127 leaves too little of 128 positions: skip fewer, or raise"),
        ("rows: {norms_above: 1}", "rows.norms_above: Input should be greater than 1"),
        ("rows: {skip_frist: 1}", "there is no setting rows.skip_frist: did you mean skip_first?"),
        ("tokens: 100", "tokens=100 do not make one batch of 512: raise tokens"),
        ("architecture: gated", "architecture: Input should be 'topk', 'batch_topk', 'standard' or 'jumprelu'"),
        ("device: tpu", "device: Input should be 'cpu' or 'cuda'"),
        ("lr: 0", "lr: Input should be greater than 0"),
        ("lr: .inf", "lr: Input should be a finite number"),
        ("held_out_prompts: 0", "held_out_prompts: Input should be greater than or equal to 1"),
        ("seed: -1", "seed: Input should be greater than or equal to 0"),
        ("tokens: many", "tokens: Input should be a valid integer"),
        ("model: {dtype: float99}", "model.dtype: Input should be 'float32'"),
        ("a: [", "is not valid YAML (while parsing"),
        ("tokens: 5: 6", "is not valid YAML (mapping values are not allowed here, line 1)"),
        ("just words", "holds no settings by name: write lines such as `tokens: 300000`"),
        ("[1, 2]", "holds no settings by name"),
        ("tokens: !!python/object/apply:os.getpid []", "is not valid YAML (could not determine a constructor"),
    ],
)
def test_a_bad_setting_gives_one_line(tmp_path, text, message):
    assert message in refused(tmp_path / "a.yaml", text)


@pytest.mark.parametrize(
    "text",
    [
        "transcoder: {d_sae: many, k: 2}",
        "transcoder: {d_sae: 4.5, k: 2}",
        "transcoder: {d_sae: 4, k: 2, skip: maybe}",
        "transcoder: {d_sae: 4, k: 2, dtype: float99}",
    ],
)
def test_a_transcoder_setting_of_the_wrong_type_gives_one_line(tmp_path, text):
    assert "transcoder" in refused(tmp_path / "a.yaml", text)


@pytest.mark.parametrize("architecture", ["standard", "topk", "batch_topk", "jumprelu"])
def test_an_architecture_alone_has_settings_that_fit_it(tmp_path, architecture):
    (tmp_path / "a.yaml").write_text(f"architecture: {architecture}")
    config = read_config(tmp_path / "a.yaml")
    assert config.transcoder_config(2, 2, 0.0).d_sae == 2304


def test_powers_of_ten_are_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("tokens: 2e4\nlr: 1e-3\ntranscoder: {d_sae: 1e3, k: 8}\ntext: {subset: '1e3', column: 1e}")
    config = read_config(path)
    assert (config.tokens, config.lr, config.transcoder_config(2, 2, 0.0).d_sae) == (20_000, 1e-3, 1000)
    assert (config.text.subset, config.text.column) == ("1e3", "1e")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "architecture: standard\ntranscoder: {d_sae: '4', sparsity_coefficient: 1e-3}\ncoefficients: [1e-2]"
    )
    config = read_config(path)
    made = config.transcoder_config(2, 2, 0.0)
    assert (made.d_sae, made.sparsity_coefficient, config.coefficients) == (4, 1e-3, [0.01])


@pytest.mark.parametrize("text", ["1: 2", "seed: 2001-13-45"])
def test_yaml_of_odd_values_gives_one_line(tmp_path, text):
    refused(tmp_path / "a.yaml", text)


def test_no_code_in_a_file_is_run(tmp_path):
    refused(tmp_path / "a.yaml", f"tokens: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    assert not (tmp_path / "made").exists()


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path, reason in ((tmp_path / "missing.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=f"cannot be read .{reason}.*: check the path"):
            read_config(path)
    (tmp_path / "latin.yaml").write_bytes(b"text: {name: caf\xe9}")
    with pytest.raises(SettingsError, match=r"latin.yaml is not valid YAML"):
        read_config(tmp_path / "latin.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "a.yaml") == TrainConfig()


@pytest.mark.skipif(not EXAMPLE.exists(), reason="there is no such example")
def test_the_example_is_the_defaults():
    assert read_config(EXAMPLE) == TrainConfig()


def test_a_config_survives_yaml(tmp_path):
    config = make_config(
        {"blocks": [0, 3], "coefficients": [0, 1.5], "text": {"files": ["a"]}, "seeds": 2}, "here", TrainConfig
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_config(tmp_path / "a.yaml") == config


def test_a_transcoder_for_every_block_coefficient_and_seed():
    config = configured({"blocks": [1, 0], "coefficients": [0, 0.5]})
    assert [arm[:4] for arm in config.planned()] == [
        ("block1_coefficient0", 1, 0.0, 0),
        ("block1_coefficient0.5", 1, 0.5, 0),
        ("block0_coefficient0", 0, 0.0, 0),
        ("block0_coefficient0.5", 0, 0.5, 0),
    ]
    several = configured({"coefficients": [1], "seed": 7, "seeds": 2}).planned()
    assert [(arm.name, arm.seed) for arm in several] == [
        ("block10_coefficient1_seed7", 7),
        ("block10_coefficient1_seed8", 8),
    ]


def test_coefficients_that_differ_have_names_that_differ():
    names = [arm.name for arm in configured({"coefficients": [0.12345678, 0.12345679]}).planned()]
    assert len(set(names)) == 2


@pytest.mark.parametrize(("tokens", "n_steps"), [(512, 1), (513, 2), (1024, 2), (300_000, 586)])
def test_steps_cover_the_tokens(tokens, n_steps):
    assert configured({"tokens": tokens}).n_steps == n_steps


def test_every_transcoder_gets_its_coefficient_and_the_seed_of_its_probes():
    config = configured({"jacobian": {"estimator": "secant", "probe": "sphere"}})
    made = config.transcoder_config(6, 5, 0.25, 3)
    assert (made.d_in, made.d_out, made.d_sae, made.k, made.jacobian_coefficient) == (6, 5, 2304, 32, 0.25)
    assert (made.jacobian.estimator, made.jacobian.probe, made.jacobian.seed) == ("secant", "sphere", 3)
