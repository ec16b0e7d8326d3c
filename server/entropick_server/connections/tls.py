"""The TLS context of a server that ends TLS itself."""

from __future__ import annotations

import ssl

from ..settings import Settings, SettingsError


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Returns the context of the settings' certificate, None without a certificate. Raises SettingsError."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise SettingsError("setting ssl_keyfile: a key needs its certificate, in ssl_certfile")
        return None
    for name, path in (("ssl_certfile", certificate), ("ssl_keyfile", key)):
        if path is not None:
            _check_readable(name, path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # without a password OpenSSL would ask the terminal for one
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        held = (
            "ssl_certfile holds no certificate with its key" if key is None else "no certificate and its key"
        )
        names = "ssl_certfile" if key is None else "ssl_certfile, ssl_keyfile"
        told = getattr(error, "reason", None) or str(error)
        raise SettingsError(
            f"setting {names}: {held} in PEM format, the key without a passphrase ({told})"
        ) from error
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise SettingsError(f"setting {name}: {path} cannot be read: {error.strerror}") from error
