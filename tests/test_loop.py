"""The whole loop by hand: sample library, scores by keyboard, training, review, correction,
training again, download."""

import io
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import load

from tests.conftest import serving

TRAINING = 120_000  # milliseconds that a training may take on a busy machine


@pytest.mark.browser
@pytest.mark.slow
def test_a_newcomer_goes_through_the_whole_loop(page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    with serving(tmp_path / "home") as url:
        # The first page is empty and offers the sample library with one click.
        page.goto(url)
        page.get_by_role("button", name="sample", exact=False).first.click()
        project = page.get_by_role("link", name="Sample", exact=False).first
        expect(project).to_be_visible(timeout=TRAINING)
        page.goto(f"{url}/projects/1/score")

        # Twenty scores by keyboard; every one lands on the image that was shown.
        shown = []
        for number in range(20):
            image = page.locator("[data-card]").first
            shown.append(image.get_attribute("data-image-id"))
            page.keyboard.press("-" if number % 11 == 10 else str(number % 11))
            expect(image).not_to_have_attribute("data-image-id", shown[-1] or "")
        assert len(set(shown)) == 20
        page.wait_for_function("() => !document.body.dataset.pending")
        api = page.request.get(f"{url}/api/v1/projects/1/scores?limit=20").json()
        recorded = [(str(e["image_id"]), e["value"]) for e in reversed(api)]
        assert recorded == [(image_id, n % 11) for n, image_id in enumerate(shown)]

        # Train: progress, then v1.2 with honest numbers.
        page.goto(f"{url}/projects/1/versions")
        page.get_by_role("button", name="Train").click()
        expect(page.get_by_text("v1.2").first).to_be_visible(timeout=TRAINING)

        # The false positives: correct the first one in place.
        page.goto(f"{url}/projects/1/review/false-positives")
        first = page.locator("[data-card]").first
        corrected = first.get_attribute("data-image-id")
        first.get_by_role("button", name="9", exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("9")
        latest = page.request.get(f"{url}/api/v1/projects/1/scores?limit=1").json()[0]
        assert (str(latest["image_id"]), latest["value"]) == (corrected, 9)

        # Train again and download both files.
        page.goto(f"{url}/projects/1/versions")
        page.get_by_role("button", name="Train").click()
        expect(page.get_by_text("v1.3").first).to_be_visible(timeout=TRAINING)
        with page.expect_download() as download:
            page.get_by_role("link", name="safetensors").first.click()
        assert download.value.suggested_filename == "Sample-v1.3.safetensors"
        tensors = load(io.BytesIO(Path(download.value.path()).read_bytes()).getvalue())
        assert len(tensors) == 16
        assert tensors["up.0.weight"].shape == (1024, 1280)
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert not errors
