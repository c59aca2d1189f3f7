"""Services that run for as long as the tests of a file."""

from collections.abc import Iterator

import pytest
from running_services import Service, Services


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("services"))
    yield services
    services.stop()


@pytest.fixture(scope="module")
def service(services: Services) -> Service:
    return services.start()
