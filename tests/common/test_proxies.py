import pytest
import requests

from common.proxies import without_proxy_for

OWN = "localhost,127.0.0.1,::1,0.0.0.0"


def test_our_own_hosts_are_added_to_what_the_environment_says() -> None:
    assert without_proxy_for({}) == {"no_proxy": OWN, "NO_PROXY": OWN}
    given = {"NO_PROXY": "site.example, 10.0.0.0/8", "no_proxy": "localhost,other"}
    added = without_proxy_for(given, ["fd00::7", "node-2"])
    expected = "localhost,other,site.example,10.0.0.0/8,127.0.0.1,::1,0.0.0.0,fd00::7,node-2"
    assert added == {"no_proxy": expected, "NO_PROXY": expected}
    assert without_proxy_for({**given, **added}, ["node-2"]) == added  # said twice: the same
    assert without_proxy_for({"no_proxy": "*"}, ["node-2"])["NO_PROXY"] == "*"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://[fd00::7]:1"]
)
def test_requests_reads_it_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang asks itself by means of requests whether it is warm."""
    for name, text in without_proxy_for({}, ["fd00::7"]).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert requests.utils.get_environ_proxies(url) == {}
    assert requests.utils.get_environ_proxies("http://hub.example") != {}
