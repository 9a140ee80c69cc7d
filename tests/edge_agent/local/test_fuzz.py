"""The document of the API, and the running API held against it by schemathesis."""

import unittest
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from edge_agent.local.openapi import document
from edge_agent.local.operations import OPERATIONS
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.conftest import Device
from tests.edge_agent.local.agents import Serve, Served
from tests.edge_agent.server import Server

EXAMPLES = 15
"""Requests per operation, as they should be and as they should not be."""


@pytest.mark.parametrize("with_token", [False, True])
def test_the_document_is_valid_and_describes_every_operation(with_token: bool) -> None:
    described = document(OPERATIONS, with_token=with_token)

    assert OPENAPI_31_VALIDATOR.is_valid(described)
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(operation.method, operation.path) for operation in OPERATIONS}
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert ("security" in described) is with_token


def test_every_route_of_the_server_is_described_or_part_of_the_page(offline_page: Served) -> None:
    described = offline_page.http.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        address = path.replace("{job_id}", "0" * 32).replace("{n}", "0")
        allowed = httpx.request("TRACE", f"{offline_page.url}{address}").headers["allow"]
        undescribed = {method.strip().lower() for method in allowed.split(",")} - set(methods) - {"head"}
        assert not undescribed, path


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_makes_the_api_fail_or_answer_otherwise_than_described(
    device: Device, server: Server, head_bundle: Path, serve: Serve, mode: GenerationMode
) -> None:
    page = serve(device.url, "--head", head_bundle)
    job_id = page.make(count=2)
    page.wait(job_id)
    # From here on jobs wait: thousands of images of random requests would keep the machine busy for long.
    server.answering.clear()
    schema = schemathesis.openapi.from_url(f"{page.url}/openapi.json")

    tried: Counter[str] = Counter()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        tried[operation.label] += _fuzz(operation, mode, job_id)

    whole = {operation.method + " " + operation.path for operation in OPERATIONS}
    # An operation without parameters and body cannot be asked for wrongly.
    assert {label for label, times in tried.items() if times} >= {label for label in whole if "{" in label}
    assert sum(tried.values()) > EXAMPLES
    assert page.process.exit_code is None
    assert not page.process.events("page_failed")
    assert page.job(job_id)["state"] == "completed"


def _fuzz(operation: Any, mode: GenerationMode, job_id: str) -> int:
    """Send requests and hold each answer against the document; returns how many were sent."""
    sent = 0

    def hold(case: Any) -> None:
        nonlocal sent
        sent += 1
        if mode is GenerationMode.POSITIVE:
            _steer(case, job_id)
        case.call_and_validate(timeout=WAIT_SECONDS)

    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        seed(2)(limits(given(case=operation.as_strategy(generation_mode=mode))(hold)))()
    except (Unsatisfiable, unittest.SkipTest):
        return 0
    return sent


def _steer(case: Any, job_id: str) -> None:
    """Let well-formed requests meet the job that is there, and let no stream run for long."""
    parameters = case.path_parameters or {}
    if "job_id" in parameters and case.method == "GET":
        parameters["job_id"] = job_id
    if case.path.endswith("/events"):
        case.query = {"seconds": 0}
