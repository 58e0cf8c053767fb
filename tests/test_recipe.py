"""Recipes: files, bases and overrides merge; every error is said at once; names run no foreign code."""

import textwrap
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import RecipeError, UserError
from ssl_domains.recipe.check import read_recipe
from ssl_domains.recipe.listing import copy_recipe, differences, resolved_values
from ssl_domains.recipe.loading import load_document, parse_value
from ssl_domains.recipe.locate import find_recipe, shipped
from ssl_domains.recipe.signatures import describe, model_of, options_of, validate

GOOD = """
domain: tabular
data: {source: table.csv, label: price}
encoder: {name: ft_transformer, width: 16, depth: 2}
mask: disjoint_subsets
method: {name: latent_prediction, momentum: [0.99, 1.0], predictor: {width: 8, depth: 1}}
objective: masked_mse
optimizer: {name: adamw, lr: 1e-3}
schedule: {name: warmup_cosine, warmup: 0.05}
train: {batch_size: 32, steps: 4}
evaluate: {probes: [linear, {name: knn, k: 3}], seeds: 2}
"""


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def problems(recipe, *overrides, **sections):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, overrides, sections)
    return caught.value.problems


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("0.5", 0.5),
        ("-2", -2),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("010", "010"),
        ("12:30", "12:30"),
        ("[1, 2]", [1, 2]),
        ("{name: gin, width: 3}", {"name": "gin", "width": 3}),
        ("my.csv", "my.csv"),
        ("[broken", "[broken"),
        ("!!python/object/apply:os.system [true]", "!!python/object/apply:os.system [true]"),
    ],
)
def test_override_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@settings(deadline=None, max_examples=25)
@given(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text("abcno-:. #'", max_size=8))
)
def test_what_a_run_saves_reads_back(value):
    assert parse_value(yaml.safe_dump(value).removesuffix("...\n")) == value


# --- files, bases, overrides ------------------------------------------------------------------


def test_a_file_wins_over_its_base_and_overrides_win_over_both(tmp_path):
    write(tmp_path, "train: {batch_size: 8, steps: 3, seed: 1}\nobjective: masked_mse\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\ntrain: {batch_size: 16}\n")
    document = load_document(path, ["train.seed=7"], {"train": {"keep": 5}})
    assert document.values["train"] == {"batch_size": 16, "steps": 3, "seed": 7, "keep": 5}
    origins = {key: document.origin(("train", key)) for key in document.values["train"]}
    assert origins["batch_size"].kind == "recipe"
    assert origins["batch_size"].where.endswith("mine.yaml:2")
    assert origins["steps"].kind == "base"
    assert origins["steps"].where.endswith("base.yaml:1")
    assert str(origins["seed"]) == "override train.seed=7"
    assert origins["keep"].kind == "override"


def test_another_name_drops_the_options_of_the_old_one(tmp_path):
    path = write(tmp_path, "optimizer: {name: adamw, betas: [0.9, 0.95], lr: 0.1}\n")
    assert load_document(path, ["optimizer=sgd"]).values["optimizer"] == {"name": "sgd"}
    both = load_document(path, ["optimizer.name=sgd", "optimizer.lr=0.3"]).values["optimizer"]
    assert both == {"name": "sgd", "lr": 0.3}
    swapped = load_document(path, ["optimizer.lr=0.3", "optimizer=sgd"]).values["optimizer"]
    assert swapped == both
    same = load_document(path, ["optimizer.name=adamw"]).values["optimizer"]
    assert same == {"name": "adamw", "betas": [0.9, 0.95], "lr": 0.1}


def test_another_budget_replaces_the_old_one(tmp_path):
    path = write(tmp_path, "train: {epochs: 10}\nschedule: {name: constant, warmup: 0.1}\n")
    document = load_document(path, ["train.steps=5", "schedule.warmup_steps=2"])
    assert document.values["train"] == {"steps": 5}
    assert document.values["schedule"] == {"name": "constant", "warmup_steps": 2}


def test_other_data_take_the_old_label_and_columns_away(tmp_path):
    path = write(tmp_path, "data: {source: a.csv, label: price, exclude: [id]}\n")
    assert load_document(path, ["data.source=b.csv"]).values["data"] == {"source": "b.csv"}
    mine = load_document(path, ["data.source=b.csv", "data.label=y"]).values["data"]
    assert mine == {"source": "b.csv", "label": "y"}
    assert load_document(path, ["data.label=y"]).values["data"]["exclude"] == ["id"]
    nodes = load_document(path, ["data.nodes=n.csv", "data.edges=e.csv"]).values["data"]
    assert nodes == {"nodes": "n.csv", "edges": "e.csv"}


def test_objects_in_memory_survive_merging(tmp_path):
    frame = object()
    document = load_document(write(tmp_path, GOOD), [], {"data": {"source": frame}})
    assert document.values["data"] == {"source": frame}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: nowhere.yaml\n", "mine.yaml:1: extends: there is no file"),
        ("extends: mine.yaml\n", "break the circle"),
        ("extends: [a, b]\n", "expected the path of one recipe"),
        (
            "train: {steps: 3}\ntrain: {steps: 4}\n",
            "mine.yaml:2: train: this key is there twice (first in line 1)",
        ),
        ("train: {steps: 3,\n  steps: 4}\n", "train.steps: this key is there twice"),
        ("data: !!python/object/apply:os.system [echo]\n", "mine.yaml:1: data"),
        ("data: {source: !!python/name:os.system x}\n", "is not plain data"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, sentence):
    document = load_document(write(tmp_path, text))
    assert any(sentence in problem for problem in document.problems) or sentence == "mine.yaml:1: data"
    assert "os.system" not in str(document.values.get("data", ""))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x80\x81\xff\x00", "not a text file"),
        (b"train: [1, 2\nx: 3", "no valid YAML"),
        (b"- a\n- b\n", "a recipe is a mapping of sections"),
        (b"", "a recipe is a mapping of sections"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, sentence):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=sentence):
        load_document(path)


def test_aliases_cannot_blow_up(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match="more than 10000 values"):
        load_document(write(tmp_path, "\n".join(lines)))


# --- finding recipes ----------------------------------------------------------------------------


def test_shipped_recipes_resolve_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = find_recipe("tabular/t_jepa")
    assert expected.name == "t_jepa.yaml"
    assert find_recipe("recipes/tabular/t_jepa.yaml") == find_recipe("tabular/t_jepa.yaml") == expected
    own = write(tmp_path, GOOD, "tabular/t_jepa")
    assert find_recipe("tabular/t_jepa").resolve() == own.resolve()


def test_a_misspelt_recipe_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean tabular/t_jepa"):
        find_recipe("tabular/t-jepa")
    with pytest.raises(RecipeError, match="tabular/t_jepa"):
        find_recipe("t_jepa.yaml")


# --- checking -------------------------------------------------------------------------------------


def test_a_good_recipe_and_its_defaults(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.domain == "tabular"
    assert recipe.sections["optimizer"].options == {"lr": 0.001}
    assert recipe.sections["mask"].resolved["n_targets"] == 4
    assert recipe.train.steps == 4
    assert recipe.evaluate.entries() == ["linear", {"knn": {"k": 3}}]
    assert not recipe.own_data
    assert read_recipe(write(tmp_path, GOOD), ["data.label=age"]).own_data


def test_the_resolved_recipe_is_a_recipe_and_a_fixed_point(tmp_path):
    first = read_recipe(write(tmp_path, GOOD), ["train.seed=3"])
    again = read_recipe(write(tmp_path, first.to_yaml(), "again.yaml"))
    assert again.resolved() == first.resolved()
    assert yaml.safe_load(first.to_yaml())["train"]["seed"] == 3


def test_every_error_at_once_with_place_and_nearest_name(tmp_path):
    bad = """
    domain: tabular
    data: {sorce: a.csv}
    encoder: os.system
    method: {name: latent_prediction, momentun: [0.996, 1.0], predictor: {widht: 16}}
    mask: {name: disjoint_subsets, n_targets: four, context: [0.1, a]}
    objective: {name: masked_mse, beta: 1}
    optimiser: adamw
    views: {name: column_corruption, rat: 0.3}
    schedule: {name: warmup_cosine, final_ratio: no}
    train: {batch_size: 512, epoch: 10, precision: fp8, clip_norm: -1}
    evaluate: {probes: [linear, {name: knn, kk: 20}, knnn], seed: 3}
    expect: {linear: "~ 0.6"}
    """
    found = problems(write(tmp_path, bad), "train.keep=many", "train")
    wanted = [
        "override 'train': expected section.key=value",
        "optimiser: unknown section; did you mean 'optimizer'?",
        "data.sorce: unknown key; did you mean 'source'?",
        "data.source: missing",
        "encoder.name: no encoder is called 'os.system'; a recipe names registered classes only",
        "method.momentun: unknown key; did you mean 'momentum'?",
        "mask.n_targets: got 'four', expected a whole number",
        "mask.context: got [0.1, 'a'], expected [a number, a number]",
        "objective.beta: unknown key",
        "views.rat: unknown key; did you mean 'rate'?",
        "schedule.final_ratio: got 'no', expected a number",
        "train.epoch: unknown key; did you mean 'epochs'?",
        "train.precision: got 'fp8', expected one of fp32, bf16, fp16",
        "train.clip_norm: got -1, expected a number greater than 0",
        "override train.keep=many: train.keep: got 'many', expected a whole number",
        "evaluate.seed: unknown key; did you mean 'seeds'?",
        "evaluate.probes.1.kk: unknown key; did you mean 'k'?",
        "evaluate.probes.2: no probe is called 'knnn'; did you mean 'knn'?",
        "expect.linear: '~ 0.6' is not a condition",
    ]
    for sentence in wanted:
        assert any(sentence in problem for problem in found), (sentence, found)
    assert any(problem.split(": ")[0].endswith("mine.yaml:6") for problem in found)  # the mask's line


def test_a_section_that_the_method_does_not_take_is_refused(tmp_path):
    text = """
    domain: tabular
    data: {source: my.csv}
    method: {name: joint_embedding}
    objective: vicreg
    views: column_corruption
    mask: random
    train: {epochs: 1}
    """
    found = problems(write(tmp_path, text))
    assert any("mask: method 'joint_embedding' takes no mask" in problem for problem in found), found


def test_probe_names_and_options(tmp_path):
    found = problems(write(tmp_path, GOOD), "evaluate.probes=[linaer, {name: knn, kk: 20}, {k: 3}]")
    assert any("no probe is called 'linaer'; did you mean 'linear'?" in p for p in found)
    assert any("kk: unknown key; did you mean 'k'?" in p for p in found)
    assert any("a probe is a name or {name: ..., options}" in p for p in found)


def test_predictor_options_are_those_of_the_encoder(tmp_path):
    (sentence,) = problems(write(tmp_path, GOOD), "method.predictor.widht=4")
    assert "method.predictor.widht: unknown key; did you mean 'width'?" in sentence


def test_budgets_exclude_each_other(tmp_path):
    (sentence,) = problems(write(tmp_path, GOOD.replace("steps: 4", "steps: 4, epochs: 2")))
    assert "give exactly one of steps, epochs, samples" in sentence


@pytest.mark.parametrize("name", ["os.system", "torch.nn.Linear", "builtins.eval", "__import__('os')"])
@pytest.mark.parametrize("section", ["encoder", "method", "objective", "mask", "optimizer", "schedule"])
def test_names_are_not_import_paths(tmp_path, section, name):
    found = problems(write(tmp_path, GOOD), **{section: {"name": name}})
    assert any(f"no {section} is called" in problem and "--plugin FILE" in problem for problem in found)


def test_unknown_domain(tmp_path):
    (sentence,) = problems(write(tmp_path, GOOD.replace("tabular", "tabula", 1)))
    assert "no domain is called 'tabula'; did you mean 'tabular'?" in sentence


def test_a_missing_package_disables_its_domain_with_the_command(tmp_path, monkeypatch):
    from ssl_domains.core import registry

    def absent(name):
        raise ImportError(f"domain {name!r} needs the package 'duckdb': pip install 'ssl-domains[{name}]'")

    monkeypatch.setattr(registry, "load_domain", absent)
    found = problems(write(tmp_path, GOOD), "train.steps=x")
    assert any("pip install 'ssl-domains[tabular]'" in problem for problem in found)
    assert any("train.steps: got 'x'" in problem for problem in found)


def test_plugins_register_names(tmp_path):
    code = """
    from ssl_domains.core.registry import objective
    from ssl_domains.core.objectives.regression import MaskedMSE

    @objective("plugin_mse")
    class PluginMSE(MaskedMSE):
        def __init__(self, factor: float = 2.0) -> None:
            super().__init__()
            self.factor = factor
    """
    plugin = write(tmp_path, code, "plugin.py")
    path = write(tmp_path, GOOD.replace("objective: masked_mse", "objective: {name: plugin_mse, factor: 3}"))
    assert "no objective is called 'plugin_mse'" in problems(path)[0]
    recipe = read_recipe(path, plugins=[plugin])
    assert recipe.sections["objective"].options == {"factor": 3.0}
    with pytest.raises(UserError, match="there is no such file"):
        read_recipe(path, plugins=[tmp_path / "absent.py"])
    broken = write(tmp_path, "import nothing_like_this\n", "broken.py")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        read_recipe(path, plugins=[broken])


# --- schemas from signatures -------------------------------------------------------------------------


class Base:
    def __init__(self, spec, rate: float = 0.5, copy: bool = False) -> None: ...


class Derived(Base):
    def __init__(self, spec, mode: Literal["mean", "max"] = "mean", **rest) -> None: ...


def test_schema_follows_the_signature_and_its_bases():
    model = model_of(Derived, frozenset({"spec"}))
    checked, found = validate(model, {"mode": "max", "rate": "0.25", "copy": True}, "derived")
    assert not found
    assert options_of(checked) == {"mode": "max", "rate": 0.25, "copy": True}
    _, found = validate(model, {"mode": "maxx", "spec": 1}, "derived")
    assert {problem.path for problem in found} == {("mode",), ("spec",)}
    assert any("expected one of mean, max; did you mean 'max'?" in problem.text for problem in found)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (tuple[float, float], "[a number, a number]"),
        (list[int], "a list, each a whole number"),
        (Literal["a", "b"], "one of a, b"),
        (dict[str, int], "a mapping of keys to values"),
    ],
)
def test_types_in_words(annotation, words):
    assert describe(annotation) == words


# --- looking at recipes ------------------------------------------------------------------------------


def test_show_gives_every_value_its_origin(tmp_path):
    rows = {row.key: row for row in resolved_values(read_recipe(write(tmp_path, GOOD), ["train.seed=5"]))}
    assert rows["train.seed"].value == 5
    assert rows["train.seed"].origin == "override train.seed=5"
    assert rows["mask.n_targets"].origin == "default"
    assert rows["mask.name"].origin.endswith("mine.yaml:5")
    assert rows["optimizer.lr"].origin.endswith("mine.yaml:8")
    assert rows["method.predictor.width"].value == 8


def test_differences(tmp_path):
    a, b = read_recipe(write(tmp_path, GOOD)), read_recipe(write(tmp_path, GOOD), ["train.seed=5"])
    assert [(row.key, row.a, row.b) for row in differences(a, b)] == [("train.seed", 0, 5)]


def test_copies_stand_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "train: {batch_size: 8, steps: 3}\n", "base.yaml")
    child = write(tmp_path, "# mine\nextends: base.yaml\ndomain: tabular\n", "child.yaml")
    copied = copy_recipe(str(child), "other/copy.yaml")
    assert load_document(copied).values == {"train": {"batch_size": 8, "steps": 3}, "domain": "tabular"}
    with pytest.raises(UserError, match="there is a file already"):
        copy_recipe(str(child), "other/copy.yaml")
    verbatim = copy_recipe("tabular/t_jepa")
    assert verbatim.name == "t_jepa.yaml"
    assert load_document(verbatim).values == load_document("recipes/tabular/t_jepa.yaml").values


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_short_and_valid(name):
    text = find_recipe(name).read_text()
    assert text.startswith("#"), "the first line says what the recipe is"
    assert len(text.splitlines()) <= 60
    read_recipe(name)
