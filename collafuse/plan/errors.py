"""Errors of the planner."""

from pydantic import ValidationError

from monitoring.errors import CollafuseError


class PlanRefused(CollafuseError):
    """What is to be planned makes no sense; the message names the option and what it may be."""


def refused_by(error: ValidationError) -> PlanRefused:
    """The first problem that pydantic has found, in one line that names the option."""
    problem = error.errors(include_url=False, include_context=False)[0]
    text = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return PlanRefused(text)
    flag = "--" + str(problem["loc"][0]).replace("_", "-")
    if problem["type"] == "missing":
        return PlanRefused(f"{flag} is not given, and nothing can be planned without it")
    return PlanRefused(f"{flag}: {text[0].lower()}{text[1:]}, not {problem['input']}")
