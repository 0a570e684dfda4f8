"""The URL of somebody else's model: no password in it, and no token to it in the clear."""

from __future__ import annotations

import ipaddress
from urllib.parse import parse_qsl, urlsplit

from fairtune.config.model import carried
from fairtune.errors import ConfigError

_SECRETS = ("key", "token", "secret", "password", "passwd", "sig", "auth", "credential", "code")


def checked(url: str) -> str:
    """Return `url`, from inside a validator.

    Raises:
        ValueError: It is no URL of http or https, or holds a user, password or key.
    """
    allowed = "https://HOST/PATH, or http://HOST/PATH"
    try:
        parts = urlsplit(url)
        name, _ = parts.hostname, parts.port
    except ValueError:
        raise carried(ConfigError("not a URL", allowed=allowed)) from None
    if parts.username is not None or parts.password is not None:
        raise carried(
            ConfigError(
                "a URL of an endpoint holds no user and password",
                found=f"{parts.scheme}://***@{name}{parts.path}",
                todo="name an environment variable with a token in token_env",
            )
        )
    named = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    for key in named:
        if any(word in key.lower() for word in _SECRETS):
            raise carried(
                ConfigError(
                    "a URL of an endpoint holds no key or password",
                    found=f"{parts.scheme}://{parts.netloc}{parts.path}?{key}=***",
                    todo="name an environment variable with a token in token_env",
                )
            )
    if parts.scheme not in ("http", "https") or not name or parts.fragment or " " in url:
        raise carried(ConfigError("not a URL of an endpoint", found=url, allowed=allowed))
    return url


def check_token(url: str, token_env: str | None, field: str) -> None:
    """See, from inside a validator, that a token to `url`, the value of `field`, is safe.

    Raises:
        ValueError: It would be sent in the clear to another machine.
    """
    parts = urlsplit(url)
    if token_env is not None and parts.scheme == "http" and not _is_here(parts.hostname):
        raise carried(
            ConfigError(
                "a token would be sent in the clear",
                found=url,
                allowed="https, or http to this machine (127.0.0.1, localhost)",
                todo="write https, or go through a tunnel that ends on this machine",
            ),
            field,
        )


def _is_here(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
