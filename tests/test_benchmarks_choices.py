"""What the commands share: their defaults, and messages about options that are wrong."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_runs import run

from benchmarks import data, models, optimizers
from benchmarks.__main__ import main


@pytest.mark.parametrize("name", sorted(set(main.commands) - {"train"}))
def test_a_command_writes_into_a_folder_of_its_own_unless_told_otherwise(name: str):
    (out,) = (option for option in main.commands[name].params if option.name == "out")
    assert out.default == Path("runs") / name


@pytest.mark.parametrize(
    ("option", "valid"),
    [
        ("--dataset", data.DATASETS),
        ("--model", models.MODELS),
        ("--optimizer", optimizers.OPTIMIZERS),
        ("--groups", optimizers.GROUPS),
    ],
)
def test_an_unknown_name_gets_the_list_of_the_valid_ones(option: str, valid: Any):
    result = run(option, "nonsense")

    assert result.exit_code == 2
    assert "'nonsense'" in result.output
    assert all(f"'{name}'" in result.output for name in valid)


def test_a_misspelt_name_gets_the_nearest_ones():
    assert "Did you mean 'adam' or " in run("--optimizer", "adamm").output
    assert run("--dataset", "minst").output.endswith("Did you mean 'mnist'?\n")
    assert "Did you mean" not in run("--optimizer", "nonsense").output


def test_an_option_that_the_optimizer_does_not_take_names_those_that_do():
    result = run("--optimizer", "adam", "--factor", 0.1)

    assert result.exit_code == 1
    ours = "salera_adamw, salera, spalera, paper-salera"
    guarded = "guarded-sgd, guarded-nag, guarded-adagrad, guarded-adam"
    assert result.output == f"Error: adam takes no --factor; {ours}, {guarded} do.\n"


def test_an_option_that_none_of_several_optimizers_takes_is_refused():
    result = run("--optimizer", "adam", "--optimizer", "sgd", "--alpha", 0.1)

    assert result.exit_code == 1
    takers = (
        "salera_adamw, salera, alera, ag_adam, spalera, "
        "paper-salera, paper-alera, paper-ag_adam, published-salera"
    )
    assert result.output == f"Error: adam and sgd take no --alpha; {takers} do.\n"


def test_a_number_that_the_library_refuses_gives_its_message_on_one_line():
    result = run("--alpha", 3)

    assert result.exit_code == 1
    assert result.output.startswith("Error: alpha must be in (0, 1]")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--minibatch-ratio", 2, "0<x<=1"),
        ("--epochs", 0, "x>=1"),
        ("--b1", 1, "0<=x<1"),
        ("--learning-rate", "nan", "not a finite number"),
        ("--learning-rate", "inf", "not a finite number"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(option: str, value: Any, message: str):
    result = run(option, value)

    assert result.exit_code == 2
    assert message in result.output
