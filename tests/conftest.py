"""What a run of the tests says at its end beside passed and failed: how exact the results were."""

from collections import defaultdict

import pytest
import torch
from browsing import address, browser, page

__all__ = ["address", "browser", "page"]  # fixtures: one server and one browser for all tests of the page


@pytest.fixture(autouse=True, scope="session")
def _cache_of_our_own(tmp_path_factory):
    """What tests learn about this machine is forgotten after them, and what is known already does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter):
    """Print the largest of every `error: ...` property that passing tests have recorded."""
    errors = defaultdict(list)
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name.startswith("error: "):
                errors[name.removeprefix("error: ")].append(value)
    if errors:
        terminalreporter.section("largest errors against untouched diffusers")
    for name, values in sorted(errors.items()):
        terminalreporter.write_line(f"{name}: {max(values):.1e} over {len(values)} cases")
