"""config.tracking: the address of a run's page, which every tracker shows."""

from __future__ import annotations

import pytest

from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import ConfigError


@pytest.mark.parametrize(
    "page",
    [
        "https://ci.example/jobs/7/artifacts/run.html",
        "https://ci.example/view?run=7&round=1",
        "file:///shared/runs/first/run.html",
        "http://127.0.0.1:8000/#/sample/1/a/0?step=2",
    ],
)
def test_addresses_are_taken_as_they_are(page: str):
    assert load_config("laptop", [f"tracking.page='{page}'"]).tracking.page == page


@pytest.mark.parametrize("page", ["run.html", "/shared/run.html", "https://"])
def test_what_is_no_address_is_refused(page: str):
    with pytest.raises(ConfigError, match=r"tracking\.page: a page is an address such as https://host/path/run\.html"):
        load_config("laptop", [f"tracking.page='{page}'"])


@pytest.mark.parametrize(
    "page",
    [
        "https://me:S3cret@host/run.html",
        "https://host/run.html?X-Amz-Signature=S3cret",
        "https://host/run.html?sv=1&sig=S3cret",
        "http://127.0.0.1:8000/?token=S3cret",
        "http://127.0.0.1:8000/#token=S3cret",
        "http://127.0.0.1:8000/#/samples?token=S3cret",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(page: str):
    with pytest.raises(ConfigError, match=r"tracking\.page: .* password, key or token") as refused:
        load_config("laptop", [f"tracking.page='{page}'"])
    assert "S3cret" not in str(refused.value)
