import pytest

from schemas import errors
from schemas.errors import InputError, ReflectionFlowError


def test_input_errors_say_file_line_field_and_what_was_expected():
    error = InputError("count is -1", file="prompts.jsonl", line=3, field="include[0].count", expected="1 or more")
    assert str(error) == "prompts.jsonl:3: count is -1\n  field: include[0].count\n  expected: 1 or more"


def test_input_errors_leave_out_what_is_not_known():
    assert str(InputError("no prompts")) == "no prompts"
    assert str(InputError("no prompts", file="a.txt")) == "a.txt: no prompts"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("InputError", 2),
        ("MissingWeightsError", 2),
        ("ForeignRunError", 3),
        ("LeaseHeldError", 3),
        ("WorkFailedError", 1),
        ("OutageError", 1),
        ("StorageError", 1),
        ("VerificationError", 1),
        ("TransientError", 1),
        ("CorruptDataError", 1),
    ],
)
def test_every_error_ends_a_command_with_its_code(name, code):
    kind = getattr(errors, name)
    assert issubclass(kind, ReflectionFlowError)
    assert kind("x").exit_code == code


def test_every_error_of_the_module_is_in_the_tree():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) >= 11
    assert all(issubclass(kind, ReflectionFlowError) for kind in kinds)
