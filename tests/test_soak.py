"""What takes too long for every run: `make soak`, before a release."""

import json
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from web_world import ORIGIN, World, full_world

from tastemaker.auth import accounts
from tastemaker.database.sessions import writing

pytestmark = [pytest.mark.soak, pytest.mark.slow]

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))  # per operation
NUMBERS = {"project_id": (1,), "version_id": (1, 2), "image_id": (1, 2, 3), "job_id": (1, 2)}
SENT = ("method", "url", "params", "json", "data", "files", "headers")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = full_world(tmp_path_factory.mktemp("soak"), admin_password="open sesame, please")
    with writing(world.engine) as session:
        accounts.add(session, "ann", "a long enough one", role="annotator")
    return world


@pytest.fixture(scope="module")
def api(world: World) -> Any:
    import schemathesis  # `make soak` installs it

    return schemathesis.openapi.from_dict(world.app.openapi())


@pytest.mark.parametrize(
    "who", [("admin", "open sesame, please"), ("ann", "a long enough one"), None]
)
def test_no_request_that_the_schema_allows_breaks_the_api(world: World, api: Any, who: Any) -> None:
    """Half of the numbers in the addresses are of things that are there."""
    drawn = random.Random(0)

    def answers(case: Any) -> None:
        for name in case.path_parameters or ():
            if name in NUMBERS and drawn.random() < 0.8:
                case.path_parameters[name] = drawn.choice(NUMBERS[name])
        words = case.as_transport_kwargs(base_url=ORIGIN)
        sent = {name: words[name] for name in SENT if words.get(name) is not None}
        if sent.get("files"):  # the schema allows any value in a form, the client only bytes
            parts = sent["files"].items() if isinstance(sent["files"], dict) else sent["files"]
            sent["files"] = [(name, ("part", repr(part).encode())) for name, part in parts]
        sent["headers"] = {**(sent.get("headers") or {}), "Origin": ORIGIN}
        answer = world.client.request(**sent, auth=who)
        asked = f"{case.method} {case.path}"
        assert answer.status_code != 500, f"{asked}: {answer.text}"
        if answer.status_code >= 400 and answer.content:
            assert json.loads(answer.content)["error"], asked
        if who is None:
            assert answer.status_code >= 400, f"{asked} was answered without a login"

    tries = settings(max_examples=EXAMPLES, phases=[Phase.generate], deadline=None,
                     suppress_health_check=list(HealthCheck))  # fmt: skip
    for operation in api.get_all_operations():
        tries(given(operation.ok().as_strategy())(answers))()
