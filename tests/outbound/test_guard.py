from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingsError
from tasks.errors import BlockedAddress, Unreachable
from tasks.outbound import target
from tasks.outbound.addresses import is_public
from tasks.outbound.allow import AllowList
from tasks.outbound.guard import Guard

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9",
    "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:20::1", "2001:db8::1",
    "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "172.32.0.1",
    "193.0.0.1",
    "2606:4700::1111",
    "2a00::1",
]


def guard(*allow: str, **names: list[str]) -> Guard:
    async def resolve(host: str, _port: int) -> list[str]:
        if host not in names:
            raise OSError
        return names[host]

    return Guard(AllowList.parse(allow), resolve)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@settings(deadline=None)  # a busy machine is no error
@given(st.ip_addresses())
def test_nothing_counts_as_public_that_python_calls_private(address: object) -> None:
    parsed = ip_address(str(address))
    if parsed.is_private or parsed.is_loopback or parsed.is_link_local or parsed.is_multicast:
        assert not is_public(parsed)


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_names_and_literals_with_such_addresses_are_refused(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    if "8.8.8.8" not in address or address.startswith("64:"):
        with pytest.raises(BlockedAddress, match="RELAIS_OUTBOUND_ALLOW"):
            await guard().check(target.parse(f"http://{literal}/"))
        with pytest.raises(BlockedAddress, match="RELAIS_OUTBOUND_ALLOW"):
            await guard(evil=[address]).check(target.parse("http://evil/"))


async def test_only_the_permitted_addresses_of_a_name_are_used() -> None:
    mixed = guard(mixed=["10.0.0.1", "8.8.8.8", "::1", "8.8.8.8"])
    assert await mixed.check(target.parse("https://mixed/")) == (ip_address("8.8.8.8"),)


async def test_mapped_addresses_are_seen_as_what_they_are() -> None:
    assert await guard(six=["::ffff:8.8.8.8"]).check(target.parse("http://six/")) == (
        ip_address("8.8.8.8"),
    )
    allowed = guard("127.0.0.1:5678")
    assert await allowed.check(target.parse("http://[::ffff:127.0.0.1]:5678/")) == (
        ip_address("127.0.0.1"),
    )


@pytest.mark.parametrize(
    ("allow", "url", "is_open"),
    [
        ("127.0.0.1:5678", "http://127.0.0.1:5678/", True),
        ("127.0.0.1:5678", "http://127.0.0.1:5679/", False),
        ("127.0.0.1:5678", "http://local:5678/", True),  # resolves to it
        ("local:5678", "http://local:5678/", True),
        ("local:5678", "http://LOCAL.:5678/", True),
        ("local:5678", "http://127.0.0.1:5678/", False),  # the name is open, not the address
        ("local", "http://local:9000/", True),
        ("other", "http://local:9000/", False),
        ("10.0.0.0/8", "http://inside:9000/", True),
        ("10.0.0.0/8:9000", "http://inside:9001/", False),
        ("10.1.2.3/32", "http://inside:9000/", False),
        ("[fd00::1]:80", "http://[fd00::1]/", True),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("fd00::/8", "http://[fe80::1]/", False),
        ("many", "http://many/", False),  # multicast stays shut even by name
    ],
)
async def test_the_allow_list(allow: str, url: str, is_open: bool) -> None:
    names = {"local": ["127.0.0.1"], "inside": ["10.0.0.1"], "many": ["224.0.0.1", "0.0.0.0"]}
    check = guard(allow, **names).check(target.parse(url))
    if is_open:
        assert await check
    else:
        with pytest.raises(BlockedAddress):
            await check


@pytest.mark.parametrize("port", [1, 22, 25, 465, 587, 993])
async def test_privileged_ports_must_be_named(port: int) -> None:
    url = target.parse(f"http://public:{port}/")
    with pytest.raises(BlockedAddress, match=f"Port {port}"):
        await guard("public", public=["8.8.8.8"]).check(url)
    assert await guard(f"public:{port}", public=["8.8.8.8"]).check(url)


async def test_a_name_that_is_not_found_is_a_passing_failure() -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await guard().check(target.parse("https://nowhere.example/"))


@pytest.mark.parametrize(
    "entry", ["http://n8n:5678", "10.0.0.0/99", "a b", "host:port:1/2", "[::1"]
)
def test_a_bad_entry_names_the_setting(entry: str) -> None:
    with pytest.raises(SettingsError, match="RELAIS_OUTBOUND_ALLOW"):
        AllowList.parse([entry])


@pytest.mark.parametrize(
    "url",
    [
        "", "/", "http://", "http:///x", "ftp://example.com/", "file:///etc/passwd", "gopher://x/",
        "javascript:alert(1)", "http://user@example.com/", "http://user:pw@example.com/",
        "http://a b/", "http://exa\tmple.com/", "http://example.com\\@evil.example/",
        "http://example.com/\r\nX: y", "http://example.com:99999/", "http://example.com:x/",
        "http://[::1", "http://[fe80::1%25eth0]/", "http://[v1.x]/", "http://127.1/", "http://2130706433/",
        "http://0177.0.0.1/", "http://-bad.example/", "http://a..b/", "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 130 + "example/", "http://exam\x00ple/", "http://x/\ud800", "http://\u2028x/",
        "https://" + "x" * 5000, "http://xn--a\u0300.example\u3002/ ", "http://ex%61mple.com/",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(BlockedAddress):
        target.parse(url)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "authority"),
    [
        ("http://Example.COM", "http", "example.com", 80, "/", "example.com"),
        ("https://example.com./a?b=c#d", "https", "example.com", 443, "/a?b=c", "example.com"),
        ("https://example.com:8443/", "https", "example.com", 8443, "/", "example.com:8443"),
        ("http://bücher.example/ü?q=ß", "http", "xn--bcher-kva.example", 80, "/%C3%BC?q=%C3%9F", "xn--bcher-kva.example"),
        ("http://例え.テスト/", "http", "xn--r8jz45g.xn--zckzah", 80, "/", "xn--r8jz45g.xn--zckzah"),
        ("http://[2606:4700::1]:81/x", "http", "2606:4700::1", 81, "/x", "[2606:4700::1]:81"),
        ("http://127.0.0.1:5678/webhook-waiting/1?signature=a%2Fb", "http", "127.0.0.1", 5678, "/webhook-waiting/1?signature=a%2Fb", "127.0.0.1:5678"),
    ],
)  # fmt: skip
def test_urls_that_are_taken_apart(
    *, url: str, scheme: str, host: str, port: int, path: str, authority: str
) -> None:
    parsed = target.parse(url)
    assert (parsed.scheme, parsed.host, parsed.port, parsed.path) == (scheme, host, port, path)
    assert parsed.authority == authority


@settings(deadline=None)  # a busy machine is no error
@given(st.text(max_size=60))
def test_parsing_never_fails_otherwise(text: str) -> None:
    for url in (text, f"http://{text}", f"http://example.com/{text}"):
        try:
            parsed = target.parse(url)
        except BlockedAddress:
            continue
        assert parsed.path.isascii()
        assert parsed.host.isascii()
        assert not set("\r\n \\@") & set(parsed.path + parsed.host) - {"@"}
