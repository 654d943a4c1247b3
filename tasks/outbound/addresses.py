"""Which IP addresses belong to the public internet.

Written out rather than left to `ipaddress.is_global`, whose answer changed between patch
releases of Python and which counts NAT64 and 6to4 as global. From the IANA special-purpose
registries (RFC 6890 and later entries).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT, and a metadata service at .100.100.200
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a cloud's host agent behind a public-looking address
            "169.254.0.0/16",  # link-local, metadata services
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments, metadata at .192
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")  # the only unicast space in use; leaves out ::, fc00::/7,
#                                       fe80::/10, ff00::/8, ::ffff:0:0/96 and 64:ff9b::/96
_SPECIAL_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: carries any IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: Address) -> bool:
    """Whether `address` can only belong to a machine on the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def unmapped(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped IPv6 address; others as they are."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
